-- What people who log in through Supabase may read. They write nothing: the servers do, with the service key.
-- An admin of a project reads the project; a participant reads the project's course and, of what sites printed, reported
-- or measured, its own node's alone. Nobody reads tokens, report_spools and log_tails.

alter table public.members add constraint members_user_id_fkey foreign key (user_id) references auth.users (id) on delete cascade;

create function espalier.my_projects() returns setof uuid
language sql stable security definer set search_path = '' as $$
  select project_id from public.members where user_id = (select auth.uid())
$$;

create function espalier.my_admin_projects() returns setof uuid
language sql stable security definer set search_path = '' as $$
  select project_id from public.members where user_id = (select auth.uid()) and role = 'admin'
$$;

create function espalier.my_nodes() returns setof uuid
language sql stable security definer set search_path = '' as $$
  -- A participant's own node; an admin's nodes are all of the project.
  select m.node_id from public.members m where m.user_id = (select auth.uid()) and m.node_id is not null
  union
  select n.id from public.nodes n where n.project_id in (select espalier.my_admin_projects())
$$;

create function espalier.my_runs() returns setof uuid
language sql stable security definer set search_path = '' as $$
  select r.id from public.federated_runs r where r.project_id in (select espalier.my_projects())
$$;

create function espalier.my_admin_runs() returns setof uuid
language sql stable security definer set search_path = '' as $$
  select r.id from public.federated_runs r where r.project_id in (select espalier.my_admin_projects())
$$;

create policy read_own on public.projects for select to authenticated using (id in (select espalier.my_projects()));
create policy read_own on public.nodes for select to authenticated using (id in (select espalier.my_nodes()));
create policy read_own on public.node_sessions for select to authenticated using (node_id in (select espalier.my_nodes()));
create policy read_own on public.members for select to authenticated
  using (user_id = (select auth.uid()) or project_id in (select espalier.my_admin_projects()));
create policy read_as_admin on public.coordinators for select to authenticated using (project_id in (select espalier.my_admin_projects()));
create policy read_as_admin on public.invitations for select to authenticated using (project_id in (select espalier.my_admin_projects()));
create policy read_as_admin on public.audit_log for select to authenticated using (project_id in (select espalier.my_admin_projects()));
create policy read_own on public.federated_runs for select to authenticated using (project_id in (select espalier.my_projects()));
create policy read_own on public.run_causes for select to authenticated
  using (node_id in (select espalier.my_nodes()) or run_id in (select espalier.my_admin_runs()));
create policy read_own on public.run_attempts for select to authenticated using (run_id in (select espalier.my_runs()));
create policy read_own on public.rounds for select to authenticated using (run_id in (select espalier.my_runs()));
create policy read_own on public.node_updates for select to authenticated
  using (node_id in (select espalier.my_nodes()) or run_id in (select espalier.my_admin_runs()));
create policy read_own on public.metrics for select to authenticated
  using (case when scope = 'node' then node_id in (select espalier.my_nodes()) or run_id in (select espalier.my_admin_runs())
    else run_id in (select espalier.my_runs()) end);
create policy read_own on public.artifacts for select to authenticated using (project_id in (select espalier.my_projects()));
create policy read_own on public.models for select to authenticated using (project_id in (select espalier.my_projects()));
create policy read_own on public.events for select to authenticated
  using (project_id in (select espalier.my_projects()) and (node_id is null or node_id in (select espalier.my_nodes())));
create policy read_own on public.log_lines for select to authenticated
  using (node_id in (select espalier.my_nodes()) or run_id in (select espalier.my_admin_runs()));

create function espalier.set_participant_rights() returns void
language plpgsql set search_path = '' as $$
-- Called by espalier.set_rights(), which takes everything from authenticated first.
begin
  grant usage on schema espalier to authenticated;
  grant execute on function espalier.my_projects(), espalier.my_admin_projects(), espalier.my_nodes(), espalier.my_runs(),
    espalier.my_admin_runs() to authenticated;
  grant select on public.projects, public.nodes, public.node_sessions, public.members, public.coordinators, public.invitations,
    public.audit_log, public.federated_runs, public.run_causes, public.run_attempts, public.rounds, public.node_updates, public.metrics,
    public.artifacts, public.models, public.events, public.log_lines to authenticated;
  grant select on public.project_list, public.node_list, public.session_list, public.run_list, public.attempt_list, public.round_list,
    public.update_list, public.metric_list, public.event_list, public.log_list, public.artifact_list, public.model_list,
    public.audit_list, public.invitation_list to authenticated;
end
$$;

select espalier.set_rights();
