-- Who may do what. Supabase's roles are absent on a plain Postgres, so the grants are in a function that can be run again
-- when they appear. The API roles get nothing here; db/supabase gives participants what they may read.

create function espalier.relations() returns table (name text, kind text, is_shown boolean, is_followed boolean)
language sql immutable set search_path = '' as $$
  -- Each of our tables and views: whether people who log in may read it, held by row security, and whether Supabase Realtime
  -- follows it. What a heartbeat, a message or a printed line changes is not followed.
  values
    ('projects', 'table', true, false), ('nodes', 'table', true, false), ('node_sessions', 'table', true, true),
    ('members', 'table', true, false), ('coordinators', 'table', true, false), ('tokens', 'table', false, false),
    ('invitations', 'table', true, false), ('report_spools', 'table', false, false), ('audit_log', 'table', true, false),
    ('federated_runs', 'table', true, false), ('run_causes', 'table', true, false), ('run_attempts', 'table', true, true),
    ('rounds', 'table', true, true), ('node_updates', 'table', true, false), ('metrics', 'table', true, false),
    ('artifacts', 'table', true, true), ('models', 'table', true, true), ('model_sources', 'table', true, false),
    ('model_promotions', 'table', true, true), ('events', 'table', true, true),
    ('log_lines', 'table', true, false), ('log_tails', 'table', false, false),
    ('project_list', 'view', true, false), ('node_list', 'view', true, false), ('session_list', 'view', true, false),
    ('run_list', 'view', true, false), ('attempt_list', 'view', true, false), ('round_list', 'view', true, false),
    ('update_list', 'view', true, false), ('metric_list', 'view', true, false), ('event_list', 'view', true, false),
    ('log_list', 'view', true, false), ('artifact_list', 'view', true, false), ('model_list', 'view', true, false),
    ('model_source_list', 'view', true, false), ('promotion_list', 'view', true, false), ('audit_list', 'view', true, false),
    ('invitation_list', 'view', true, false), ('run_overview', 'view', true, false), ('round_table', 'view', true, false),
    ('node_overview', 'view', true, false), ('run_timeline', 'view', true, false), ('run_size', 'view', true, false)
$$;

create function espalier.functions() returns setof regprocedure
language sql stable set search_path = '' as $$
  -- All helpers, and of schema public, where a Supabase project has others too, ours.
  select p.oid::regprocedure from pg_catalog.pg_proc p
  where p.pronamespace = 'espalier'::regnamespace or (p.pronamespace = 'public'::regnamespace and p.proname in (
    'schema_version', 'open_project', 'hold_lease', 'release_lease', 'add_token', 'find_token', 'revoke_tokens', 'audit',
    'create_invitation', 'check_invitation', 'redeem_invitation', 'remove_node', 'beat', 'mark_lost_nodes', 'open_session', 'move_session',
    'begin_run', 'begin_attempt', 'adopt_run', 'move_run', 'note_attempt', 'lose_attempt', 'apply_journal', 'forget_projection',
    'append_log_lines', 'tail_offset', 'prune', 'accept_reports', 'add_model', 'promote_model', 'note_artifact'))
$$;

create function espalier.set_rights() returns void
language plpgsql set search_path = '' as $$
declare
  v_role text;
  v_name text;
  v_kind text;
  v_function regprocedure;
begin
  for v_role in select 'public' union all select quote_ident(rolname) from pg_roles where rolname in ('anon', 'authenticated') loop
    for v_name in select name from espalier.relations() loop
      execute format('revoke all on public.%I from %s', v_name, v_role);
    end loop;
    -- Older Supabase projects grant new sequences too, and setval would make the next insert fail.
    for v_name in
      select pg_get_serial_sequence('public.' || r.name, a.attname) from espalier.relations() r
      join pg_attribute a on a.attrelid = to_regclass('public.' || r.name) and a.attidentity <> '' where r.kind = 'table'
    loop
      execute format('revoke all on sequence %s from %s', v_name, v_role);
    end loop;
    for v_function in select f from espalier.functions() f loop
      execute format('revoke all on function %s from %s', v_function, v_role);
    end loop;
    execute format('revoke all on schema espalier from %s', v_role);
  end loop;
  if exists (select 1 from pg_roles where rolname = 'service_role') then
    grant usage on schema public, espalier to service_role;
    for v_name, v_kind in select name, kind from espalier.relations() loop
      execute format('grant %s on public.%I to service_role',
        case v_kind when 'table' then 'select, insert, update, delete' else 'select' end, v_name);
    end loop;
    for v_function in select f from espalier.functions() f loop
      execute format('grant execute on function %s to service_role', v_function);
    end loop;
  end if;
  if to_regprocedure('espalier.set_participant_rights()') is not null then
    execute 'select espalier.set_participant_rights()';
  end if;
end
$$;

select espalier.set_rights();
