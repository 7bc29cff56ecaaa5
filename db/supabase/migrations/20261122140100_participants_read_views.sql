-- What people who log in may read, and what Realtime follows, both from the one list in espalier.relations().

create or replace function espalier.set_participant_rights() returns void
language plpgsql set search_path = '' as $$
-- Called by espalier.set_rights(), which takes everything from authenticated first.
declare
  v_name text;
begin
  grant usage on schema espalier to authenticated;
  grant execute on function espalier.my_projects(), espalier.my_admin_projects(), espalier.my_nodes(), espalier.my_runs(),
    espalier.my_admin_runs() to authenticated;
  for v_name in select name from espalier.relations() where is_shown loop
    execute format('grant select on public.%I to authenticated', v_name);
  end loop;
end
$$;

select espalier.set_rights();

-- A run's cause may quote every node that failed. A participant reads its own node's in node_updates.
drop policy read_own on public.run_causes;
create policy read_as_admin on public.run_causes for select to authenticated using (run_id in (select espalier.my_admin_runs()));

-- Not nodes and runs any more: the first change with every heartbeat, every 5 s, the others with each piece of a journal, up to four
-- times a second, and Realtime would ask row security for each listener each time. What becomes of them is an event, and events
-- are followed.
alter publication supabase_realtime drop table public.nodes, public.federated_runs;
alter publication supabase_realtime add table public.artifacts, public.models;
