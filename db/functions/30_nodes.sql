-- Nodes: enrolment, heartbeats, sessions.

create function espalier.node_row(p_node_id uuid, p_mark bigint default null) returns jsonb
language sql stable set search_path = '' as $$
  -- A node as node_list has it, with the events of this transaction: those after the mark, none without one.
  select to_jsonb(n) || jsonb_build_object('events',
    case when p_mark is null then '[]' else espalier.events_since(n.project_id, p_mark) end)
  from public.node_list n where n.id = p_node_id
$$;

create function espalier.move_node(p_node_id uuid, p_status text, p_reason text, p_data jsonb default '{}') returns boolean
language plpgsql set search_path = '' as $$
-- Move a node by its transition table and say so: joined when it comes online, dropped when it leaves.
declare
  v_before text;
  v_project_id uuid;
begin
  select status, project_id into v_before, v_project_id from public.nodes where id = p_node_id for no key update;
  update public.nodes set status = p_status, reason = p_reason, status_at = now()
  where id = p_node_id and status = any (espalier.allowed_from('node', p_status));
  if not found then
    return false;
  end if;
  if p_status = 'online' then
    perform espalier.emit(v_project_id, 'fl.client.joined', null, p_node_id, null, p_data || jsonb_build_object('from', v_before));
  elsif p_status = 'lost' or (v_before = 'online' and p_status in ('offline', 'removed')) then
    perform espalier.emit(v_project_id, 'fl.client.dropped', null, p_node_id, null,
      p_data || jsonb_build_object('from', v_before, 'to', p_status, 'reason', p_reason));
  end if;
  return true;
end
$$;

create function public.create_invitation(p_project_id uuid, p_sha256 text, p_label text, p_expires_in_s double precision) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_id uuid;
begin
  insert into public.invitations (project_id, sha256, label, expires_at)
  values (p_project_id, p_sha256, p_label, now() + make_interval(secs => p_expires_in_s))
  returning id into v_id;
  return (select to_jsonb(i) from public.invitation_list i where i.id = v_id);
end
$$;

create function espalier.open_invitation(p_sha256 text, p_external_id text) returns public.invitations
language plpgsql set search_path = '' as $$
-- Give the invitation that would let a node of this external id in, locked.
declare
  v_invitation public.invitations;
begin
  select * into v_invitation from public.invitations where sha256 = p_sha256 for update;
  if not found then
    perform espalier.refuse('ES002', 'The invitation is unknown.', 'unknown');
  elsif v_invitation.used_at is not null then
    perform espalier.refuse('ES002', 'The invitation is used.', 'used');
  elsif v_invitation.expires_at <= now() then
    perform espalier.refuse('ES002', 'The invitation is expired.', 'expired');
  end if;
  perform 1 from public.nodes
  where project_id = v_invitation.project_id and external_id = p_external_id
    and not (status = any (espalier.allowed_from('node', 'enrolled')) and role = 'participant');
  if found then
    perform espalier.refuse('ES003', format('A node with the external id %s is enrolled already; remove it first.', p_external_id));
  end if;
  return v_invitation;
end
$$;

create function public.check_invitation(p_sha256 text, p_external_id text) returns jsonb
language plpgsql set search_path = '' as $$
begin
  perform espalier.open_invitation(p_sha256, p_external_id);
  return 'null';
end
$$;

create function public.redeem_invitation(
  p_sha256 text, p_external_id text, p_display_name text, p_public_key text, p_flower_node_id text, p_token_sha256 text
) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_invitation public.invitations := espalier.open_invitation(p_sha256, p_external_id);
  v_node public.nodes;
  v_mark bigint;
begin
  perform espalier.lock_project(v_invitation.project_id);
  v_mark := espalier.last_event(v_invitation.project_id);
  insert into public.nodes as n (project_id, role, external_id, display_name, public_key, flower_node_id)
  values (v_invitation.project_id, 'participant', p_external_id, p_display_name, p_public_key, p_flower_node_id)
  on conflict (project_id, external_id) do update
    set display_name = excluded.display_name, public_key = excluded.public_key, flower_node_id = excluded.flower_node_id,
        status = 'enrolled', status_at = now(), reason = null, removed_at = null, last_seen_at = null, activity = null
    where n.status = any (espalier.allowed_from('node', 'enrolled')) and n.role = 'participant'
  returning * into v_node;
  if not found then -- somebody else was faster
    perform espalier.open_invitation(p_sha256, p_external_id);
  end if;
  update public.invitations set used_at = now(), node_id = v_node.id where id = v_invitation.id;
  insert into public.tokens (sha256, role, subject, project_id)
  values (p_token_sha256, 'node', v_node.id::text, v_node.project_id);
  return espalier.node_row(v_node.id, v_mark);
end
$$;

create function public.remove_node(p_node_id uuid) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_project_id uuid;
  v_mark bigint;
begin
  select project_id into v_project_id from public.nodes where id = p_node_id and role = 'participant';
  if not found then
    return null;
  end if;
  perform espalier.lock_project(v_project_id);
  v_mark := espalier.last_event(v_project_id);
  if not espalier.move_node(p_node_id, 'removed', 'removed') then
    return null;
  end if;
  update public.nodes set removed_at = now() where id = p_node_id;
  update public.node_sessions set status = 'lost', reason = 'node removed', status_at = now(), ended_at = now()
  where node_id = p_node_id and status = any (espalier.allowed_from('session', 'lost'));
  perform public.revoke_tokens('node', p_node_id::text);
  return espalier.node_row(p_node_id, v_mark);
end
$$;

create function public.beat(p_node_id uuid, p_facts jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_node public.nodes;
  v_status text := case when p_facts ->> 'supernode_state' = 'running' then 'online' else 'offline' end;
  v_mark bigint;
begin
  -- Only a beat that changes something writes an event, and so has to wait for its turn among the project's writers.
  for v_turn in 1..2 loop
    select * into v_node from public.nodes where id = p_node_id;
    if not found then
      perform espalier.refuse('ES005', format('There is no node %s.', p_node_id));
    elsif v_node.status <> v_status and v_mark is null then
      perform espalier.lock_project(v_node.project_id);
      v_mark := espalier.last_event(v_node.project_id);
    end if;
    select * into v_node from public.nodes where id = p_node_id for no key update;
    exit when v_node.status = v_status or v_mark is not null;
  end loop;
  if v_node.status = 'removed' then
    perform espalier.refuse('ES004', format('The node %s was removed.', v_node.external_id));
  end if;
  update public.nodes set last_seen_at = now(), facts = p_facts, reported_at = espalier.as_time(p_facts ->> 'reported_at')
  where id = p_node_id;
  perform espalier.move_node(p_node_id, v_status, p_facts ->> 'supernode_state');
  return espalier.node_row(p_node_id, v_mark) || jsonb_build_object('joined', v_node.status in ('enrolled', 'lost'));
end
$$;

create function public.mark_lost_nodes(p_project_id uuid, p_silent_s double precision) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_node_id uuid;
  v_mark bigint;
  v_rows jsonb := '[]';
begin
  perform 1 from public.nodes
  where project_id = p_project_id and role = 'participant' and status in ('online', 'offline')
    and last_seen_at < now() - make_interval(secs => p_silent_s);
  if not found then
    return v_rows;
  end if;
  perform espalier.lock_project(p_project_id);
  for v_node_id in
    select id from public.nodes
    where project_id = p_project_id and role = 'participant' and status in ('online', 'offline')
      and last_seen_at < now() - make_interval(secs => p_silent_s)
    order by key for no key update
  loop
    v_mark := espalier.last_event(p_project_id);
    perform espalier.move_node(v_node_id, 'lost', 'silent', jsonb_build_object('silent_s', p_silent_s));
    v_rows := v_rows || jsonb_build_array(espalier.node_row(v_node_id, v_mark));
  end loop;
  return v_rows;
end
$$;

create function espalier.supersede_sessions(p_node_id uuid, p_kind text, p_but uuid default null) returns void
language sql set search_path = '' as $$
  update public.node_sessions
  set status = 'lost', reason = coalesce(reason, 'another session began'), status_at = now(), ended_at = now()
  where node_id = p_node_id and kind = p_kind and id is distinct from p_but
    and status = any (espalier.allowed_from('session', 'lost'))
$$;

create function public.open_session(p_node_id uuid, p_kind text, p_runtime_config jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_id uuid;
begin
  perform 1 from public.nodes where id = p_node_id for no key update;
  if not found then
    perform espalier.refuse('ES005', format('There is no node %s.', p_node_id));
  end if;
  perform espalier.supersede_sessions(p_node_id, p_kind);
  insert into public.node_sessions (node_id, kind, runtime_config) values (p_node_id, p_kind, p_runtime_config)
  returning id into v_id;
  return (select to_jsonb(s) from public.session_list s where s.id = v_id);
end
$$;

create function public.move_session(p_session_id uuid, p_status text, p_pid integer, p_reason text, p_last_lines jsonb) returns jsonb
language plpgsql set search_path = '' as $$
begin
  if espalier.allowed_from('session', p_status) = '{}' then
    perform espalier.refuse('ES006', format('No session becomes %s.', p_status));
  end if;
  update public.node_sessions
  set status = p_status, status_at = now(), pid = coalesce(p_pid, pid), reason = coalesce(p_reason, reason),
      last_lines = coalesce(p_last_lines, last_lines),
      ended_at = case when p_status in ('stopped', 'exited', 'failed', 'lost') then now() end
  where id = p_session_id and status = any (espalier.allowed_from('session', p_status));
  if not found then
    perform 1 from public.node_sessions where id = p_session_id;
    if not found then
      perform espalier.refuse('ES005', format('There is no session %s.', p_session_id));
    end if;
    return null;
  end if;
  return (select to_jsonb(s) from public.session_list s where s.id = p_session_id);
end
$$;
