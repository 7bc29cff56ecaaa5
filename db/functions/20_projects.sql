-- Projects, the lease, tokens, the audit log.

create function public.schema_version() returns jsonb
language sql immutable set search_path = '' as $$
  -- The newest migration; each migration replaces this function.
  select to_jsonb('20261129090000'::text)
$$;

create function public.open_project(p_slug text, p_name text, p_coordinator_external_id text, p_coordinator_name text) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_project public.projects;
  v_node_id uuid;
begin
  insert into public.projects (slug, name) values (p_slug, p_name)
  on conflict (slug) do update set name = excluded.name
  returning * into v_project;
  insert into public.nodes (project_id, role, external_id, display_name, status)
  values (v_project.id, 'coordinator', p_coordinator_external_id, p_coordinator_name, 'online')
  on conflict (project_id) where role = 'coordinator'
  do update set external_id = excluded.external_id, display_name = excluded.display_name
  returning id into v_node_id;
  return jsonb_build_object('id', v_project.id, 'slug', v_project.slug, 'name', v_project.name,
    'created_at', v_project.created_at, 'coordinator_node_id', v_node_id);
end
$$;

create function public.hold_lease(p_project_id uuid, p_server_id text, p_host text) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_row public.coordinators;
begin
  insert into public.coordinators as c (project_id, server_id, host, lease_until)
  values (p_project_id, p_server_id, p_host, now() + interval '15 seconds')
  on conflict (project_id) do update
    set server_id = excluded.server_id, host = excluded.host, lease_until = excluded.lease_until,
        taken_at = case when c.server_id = excluded.server_id then c.taken_at else now() end
    where c.server_id = excluded.server_id or c.lease_until <= now()
  returning * into v_row;
  if not found then
    select * into v_row from public.coordinators where project_id = p_project_id;
  end if;
  return jsonb_build_object('held', v_row.server_id = p_server_id, 'server_id', v_row.server_id, 'host', v_row.host,
    'taken_at', v_row.taken_at, 'lease_until', v_row.lease_until);
end
$$;

create function public.release_lease(p_project_id uuid, p_server_id text) returns jsonb
language sql set search_path = '' as $$
  with gone as (
    delete from public.coordinators where project_id = p_project_id and server_id = p_server_id returning 1
  )
  select to_jsonb(count(*) > 0) from gone
$$;

create function public.add_token(p_sha256 text, p_role text, p_subject text, p_project_id uuid) returns jsonb
language sql set search_path = '' as $$
  insert into public.tokens (sha256, role, subject, project_id) values (p_sha256, p_role, p_subject, p_project_id)
  on conflict (sha256) do nothing;
  select 'null'::jsonb
$$;

create function public.find_token(p_sha256 text) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object('role', role, 'subject', subject, 'project_id', project_id)
  from public.tokens where sha256 = p_sha256 and revoked_at is null
$$;

create function public.revoke_tokens(p_role text, p_subject text) returns jsonb
language sql set search_path = '' as $$
  with gone as (
    update public.tokens set revoked_at = now() where role = p_role and subject = p_subject and revoked_at is null returning 1
  )
  select to_jsonb(count(*)) from gone
$$;

create function public.audit(p_project_id uuid, p_actor text, p_action text, p_subject text, p_facts jsonb) returns jsonb
language sql set search_path = '' as $$
  insert into public.audit_log (project_id, actor, action, subject, facts)
  values (p_project_id, p_actor, p_action, p_subject, p_facts)
  returning to_jsonb(audit_log)
$$;
