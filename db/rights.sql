-- Who may do what. Supabase's roles are absent on a plain Postgres, so the grants are in a function that can be run again
-- when they appear. The API roles get nothing here; db/supabase gives participants what they may read.

create function espalier.set_rights() returns void
language plpgsql set search_path = '' as $$
declare
  c_tables constant text[] := array[
    'projects', 'nodes', 'node_sessions', 'members', 'coordinators', 'tokens', 'invitations', 'report_spools', 'audit_log',
    'federated_runs', 'run_causes', 'run_attempts', 'rounds', 'node_updates', 'metrics', 'artifacts', 'models', 'events', 'log_lines', 'log_tails'];
  c_views constant text[] := array[
    'project_list', 'node_list', 'session_list', 'run_list', 'attempt_list', 'round_list', 'update_list', 'metric_list', 'event_list',
    'log_list', 'artifact_list', 'model_list', 'audit_list', 'invitation_list'];
  c_functions constant text[] := array[
    'schema_version', 'open_project', 'hold_lease', 'release_lease', 'add_token', 'find_token', 'revoke_tokens', 'audit',
    'create_invitation', 'check_invitation', 'redeem_invitation', 'remove_node', 'beat', 'mark_lost_nodes', 'open_session', 'move_session',
    'begin_run', 'begin_attempt', 'adopt_run', 'move_run', 'note_attempt', 'apply_journal', 'forget_projection',
    'append_log_lines', 'tail_offset', 'prune_log_lines', 'accept_reports'];
  v_role text;
  v_name text;
  v_function regprocedure;
begin
  for v_role in select 'public' union all select quote_ident(rolname) from pg_roles where rolname in ('anon', 'authenticated') loop
    foreach v_name in array c_tables || c_views loop
      execute format('revoke all on public.%I from %s', v_name, v_role);
    end loop;
    for v_function in
      select p.oid::regprocedure from pg_proc p
      where p.pronamespace = 'espalier'::regnamespace or (p.pronamespace = 'public'::regnamespace and p.proname = any (c_functions))
    loop
      execute format('revoke all on function %s from %s', v_function, v_role);
    end loop;
    execute format('revoke all on schema espalier from %s', v_role);
  end loop;
  if exists (select 1 from pg_roles where rolname = 'service_role') then
    grant usage on schema public, espalier to service_role;
    foreach v_name in array c_tables loop
      execute format('grant select, insert, update, delete on public.%I to service_role', v_name);
    end loop;
    foreach v_name in array c_views loop
      execute format('grant select on public.%I to service_role', v_name);
    end loop;
    for v_function in
      select p.oid::regprocedure from pg_proc p
      where p.pronamespace = 'espalier'::regnamespace or (p.pronamespace = 'public'::regnamespace and p.proname = any (c_functions))
    loop
      execute format('grant execute on function %s to service_role', v_function);
    end loop;
  end if;
  if to_regprocedure('espalier.set_participant_rights()') is not null then
    execute 'select espalier.set_participant_rights()';
  end if;
end
$$;

select espalier.set_rights();
