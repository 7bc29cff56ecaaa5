-- Reports: what client servers say of their site, spooled there until it is acknowledged here.

create function espalier.superlink_is_insecure(p_project_id uuid) returns boolean
language sql stable set search_path = '' as $$
  -- As the coordinator started it last: what a site says of itself decides nothing.
  select coalesce((select s.runtime_config -> 'insecure' = 'true'
    from public.node_sessions s join public.nodes n on n.id = s.node_id
    where n.project_id = p_project_id and s.kind = 'superlink' order by s.key desc limit 1), false)
$$;

create function espalier.shortened(p_lines jsonb) returns jsonb
language plpgsql immutable set search_path = '' as $$
-- The last 20 lines, of 2000 characters: what a client server sends. Anything else that is no array is left to the column's check.
begin
  if p_lines is null or jsonb_typeof(p_lines) = 'null' then
    return '[]';
  elsif jsonb_typeof(p_lines) <> 'array' then
    return p_lines;
  end if;
  return coalesce((
    select jsonb_agg(left(l.line, 2000) order by l.place)
    from jsonb_array_elements_text(p_lines) with ordinality as l (line, place) where l.place > jsonb_array_length(p_lines) - 20), '[]');
end
$$;

create function espalier.report_session(p_node public.nodes, d jsonb) returns void
language plpgsql set search_path = '' as $$
declare
  v_id uuid := (d ->> 'session_id')::uuid;
  v_status text := d ->> 'status';
  v_open boolean := v_status in ('starting', 'running', 'stopping');
  v_session public.node_sessions;
begin
  if v_id is null or v_status is null then
    perform espalier.refuse('ES006', 'A session line has session_id and status.');
  end if;
  select * into v_session from public.node_sessions where id = v_id for no key update;
  if v_session.node_id <> p_node.id or v_session.kind <> 'supernode' then
    perform espalier.refuse('ES006', 'The session is another node''s.');
  elsif v_status <> 'starting' and espalier.allowed_from('session', v_status) = '{}' then
    perform espalier.refuse('ES006', 'Its status is unknown.');
  elsif v_session.status <> v_status and not v_session.status = any (espalier.allowed_from('session', v_status)) then
    perform espalier.refuse('ES004', format('A session that is %s does not become %s.', v_session.status, v_status));
  end if;
  if length((coalesce(v_session.runtime_config, '{}') || espalier.or_empty(d -> 'runtime_config'))::text) > 65536 then
    perform espalier.refuse('ES006', 'runtime_config is longer than 65,536 characters.');
  end if;
  if v_session.id is null and espalier.count_said(p_node.id, true) > espalier.said_in_an_hour() then
    perform espalier.refuse('ES006', format('The node came, went and opened sessions %s times in an hour.', espalier.said_in_an_hour()));
  end if;
  if v_open and v_session.id is null then
    perform espalier.supersede_sessions(p_node.id, 'supernode', v_id);
  end if;
  insert into public.node_sessions as s (id, node_id, kind, status, pid, flower_node_id, runtime_config, reason, last_lines, ended_at)
  values (v_id, p_node.id, 'supernode', v_status, (d ->> 'pid')::integer, d ->> 'flower_node_id', espalier.or_empty(d -> 'runtime_config'),
    left(d ->> 'reason', 2000), espalier.shortened(d -> 'last_lines'), case when not v_open then now() end)
  on conflict (id) do update
    set status = excluded.status, pid = coalesce(excluded.pid, s.pid), flower_node_id = coalesce(excluded.flower_node_id, s.flower_node_id),
        runtime_config = s.runtime_config || excluded.runtime_config, reason = coalesce(excluded.reason, s.reason),
        last_lines = case when excluded.last_lines = '[]' then s.last_lines else excluded.last_lines end,
        status_at = case when s.status = excluded.status then s.status_at else now() end,
        ended_at = case when s.status = excluded.status then s.ended_at else excluded.ended_at end;
  -- Without a key Flower gives a SuperNode a new id at each start; with one, enrolment has said which id is this node's.
  update public.nodes set flower_node_id = d ->> 'flower_node_id'
  where id = p_node.id and d ->> 'flower_node_id' is not null
    and (flower_node_id is null or espalier.superlink_is_insecure(p_node.project_id));
  if v_status = 'running' then
    perform espalier.move_node(p_node.id, 'online', null);
  elsif not exists (
    select 1 from public.node_sessions
    where node_id = p_node.id and kind = 'supernode' and status = 'running'
  ) and (select status = 'online' from public.nodes where id = p_node.id) then
    perform espalier.move_node(p_node.id, 'offline', coalesce(left(d ->> 'reason', 2000), 'SuperNode ' || v_status),
      jsonb_build_object('session_id', v_id));
  end if;
end
$$;

create function espalier.report_inventory(p_node public.nodes, d jsonb) returns void
language plpgsql set search_path = '' as $$
declare
  v_twin record;
begin
  update public.nodes
  set hardware = espalier.or_empty(d -> 'hardware'), datasets = coalesce(nullif(d -> 'datasets', 'null'), '[]')
  where id = p_node.id;
  for v_twin in
    select distinct unnest(array[p_node.id, n.id]) as node_id, s ->> 'id' as dataset_id
    from jsonb_array_elements(coalesce(nullif(d -> 'datasets', 'null'), '[]')) as s
    join public.nodes n on n.project_id = p_node.project_id and n.id <> p_node.id and n.status <> 'removed'
      and n.datasets @> jsonb_build_array(jsonb_build_object('id', s -> 'id'))
    where s ->> 'id' is not null
  loop
    -- Each node has its own warning, in which no other node is named: a participant reads what is said of its own.
    perform espalier.emit(p_node.project_id, 'fl.client.warned', null, v_twin.node_id, null,
      jsonb_build_object('what', 'dataset.duplicate', 'dataset_id', v_twin.dataset_id), now(), null,
      'dataset:' || v_twin.node_id || ':' || v_twin.dataset_id);
  end loop;
end
$$;

create function espalier.run_of(p_project_id uuid, p_flower_run_id text) returns uuid
language sql stable set search_path = '' as $$
  select r.id from public.run_attempts a join public.federated_runs r on r.id = a.run_id
  where a.flower_run_id = p_flower_run_id and r.project_id = p_project_id
$$;

create function espalier.report_log(p_node public.nodes, d jsonb, p_log_lines_per_run integer) returns jsonb
language plpgsql set search_path = '' as $$
-- Add the lines, and give those that belong to a run: they also go into its directory.
declare
  v_run_id uuid := espalier.run_of(p_node.project_id, d ->> 'flower_run_id');
  v_last bigint;
begin
  if coalesce(d ->> 'source', '') not in ('clientapp', 'supernode') or jsonb_typeof(d -> 'lines') is distinct from 'array' then
    perform espalier.refuse('ES006', 'A log line has source clientapp or supernode, and lines.');
  end if;
  v_last := espalier.add_log_lines(v_run_id, p_node.id, d ->> 'flower_run_id', 'node:' || p_node.id || ':' || (d ->> 'source'),
    d ->> 'source', d ->> 'message_id', d -> 'lines', p_log_lines_per_run);
  return coalesce((
    select jsonb_agg(jsonb_build_object('run_id', l.run_id, 'at', l.at, 'level', l.level, 'text', l.text) order by l.key)
    from public.log_lines l where l.run_id = v_run_id and l.key > v_last and l.node_id = p_node.id), '[]');
end
$$;

create function espalier.report_clientapp(p_node public.nodes, d jsonb) returns void
language plpgsql set search_path = '' as $$
begin
  if d ->> 'event' is null or d ->> 'event' not in ('message.started', 'message.ended', 'clientapp.died', 'message.cancelled') then
    perform espalier.refuse('ES006', 'Its event is unknown.');
  end if;
  update public.nodes set activity = d where id = p_node.id;
  if d ->> 'event' in ('clientapp.died', 'message.cancelled') then
    perform espalier.emit(p_node.project_id, 'fl.client.warned', espalier.run_of(p_node.project_id, d ->> 'flower_run_id'), p_node.id, null,
      jsonb_build_object('what', d -> 'event', 'flower_run_id', d -> 'flower_run_id', 'message_id', d -> 'message_id',
        'rc', d -> 'rc', 'signal', d -> 'signal', 'reason', d -> 'reason'));
  end if;
end
$$;

create function espalier.counts_of(d jsonb) returns jsonb
language sql immutable set search_path = '' as $$
  -- The numbers of a dropped line: how many lines of each kind.
  select coalesce(jsonb_object_agg(c.key, c.value) filter (where jsonb_typeof(c.value) = 'number' and c.key ~ '^[a-z]{1,20}_lines$'), '{}')
  from jsonb_each(d) c
$$;

create function espalier.apply_report(p_node public.nodes, p_line jsonb, p_log_lines_per_run integer) returns jsonb
language plpgsql set search_path = '' as $$
-- Apply a line of known seq and give the log rows that it added.
declare
  d jsonb := p_line -> 'data';
  v_kind text := coalesce(p_line ->> 'kind', 'null');
begin
  if jsonb_typeof(d) is distinct from 'object' then
    perform espalier.refuse('ES006', 'data is no object.');
  end if;
  case v_kind
    when 'session' then perform espalier.report_session(p_node, d);
    when 'inventory' then perform espalier.report_inventory(p_node, d);
    when 'log' then return espalier.report_log(p_node, d, p_log_lines_per_run);
    when 'clientapp' then perform espalier.report_clientapp(p_node, d);
    when 'dropped' then
      perform espalier.emit(p_node.project_id, 'fl.client.warned', null, p_node.id, null, espalier.counts_of(d) || '{"what": "spool.dropped"}');
    else perform espalier.refuse('ES006', 'Its kind is unknown.');
  end case;
  return '[]';
end
$$;

create function espalier.apply_reports(
  p_node public.nodes, p_spool public.report_spools, p_lines jsonb, p_log_lines_per_run integer, p_careful boolean,
  out o_seq bigint, out o_refused integer, out o_lines jsonb
)
language plpgsql set search_path = '' as $$
-- Apply lines from applied_seq + 1 on, up to the first gap. careful: as in espalier.apply_records.
declare
  v_line jsonb;
  v_seq bigint;
  v_why text;
  v_column text;
  v_constraint text;
begin
  o_seq := p_spool.applied_seq;
  o_refused := 0;
  o_lines := '[]';
  for v_line in select value from jsonb_array_elements(p_lines) loop
    v_why := null;
    v_seq := case when jsonb_typeof(v_line) = 'object' and v_line ->> 'seq' ~ '^[1-9][0-9]{0,17}$' then (v_line ->> 'seq')::bigint end;
    continue when v_seq <= o_seq;
    if v_seq is null then
      v_why := 'It has no seq.';
    elsif v_seq > o_seq + 1 then
      perform espalier.emit(p_node.project_id, 'fl.client.warned', null, p_node.id, null,
        jsonb_build_object('what', 'report.gap', 'spool_id', p_spool.spool_id, 'expected', o_seq + 1, 'seq', v_seq), now(), null,
        p_node.id || ':gap:' || p_spool.spool_id || ':' || (o_seq + 1));
      return;
    elsif p_careful then
      begin
        o_lines := o_lines || espalier.apply_report(p_node, v_line, p_log_lines_per_run);
      exception when others then
        if not espalier.is_about_the_data(sqlstate) then
          raise;
        end if;
        get stacked diagnostics v_column = column_name, v_constraint = constraint_name;
        v_why := espalier.why_refused(sqlstate, sqlerrm, v_column, v_constraint);
      end;
    else
      o_lines := o_lines || espalier.apply_report(p_node, v_line, p_log_lines_per_run);
    end if;
    if v_why is not null then
      o_refused := o_refused + 1;
      perform espalier.emit(p_node.project_id, 'fl.client.warned', null, p_node.id, null,
        jsonb_build_object('what', 'report.refused', 'seq', v_seq, 'why', v_why, 'kind', case when v_seq is not null then
          espalier.known(v_line -> 'kind', array['session', 'inventory', 'log', 'clientapp', 'dropped']) end),
        now(), null, p_node.id || ':refused:' || p_spool.spool_id || ':' || coalesce(v_seq::text, md5(v_line::text)));
    end if;
    o_seq := coalesce(v_seq, o_seq);
  end loop;
end
$$;

create function public.accept_reports(p_node_id uuid, p_spool_id text, p_lines jsonb, p_log_lines_per_run integer) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_node public.nodes;
  v_spool public.report_spools;
  v_done record;
  v_mark bigint;
begin
  select * into v_node from public.nodes where id = p_node_id;
  if not found then
    perform espalier.refuse('ES005', format('There is no node %s.', p_node_id));
  end if;
  perform espalier.lock_project(v_node.project_id);
  v_mark := espalier.last_event(v_node.project_id);
  select * into v_node from public.nodes where id = p_node_id for no key update;
  if v_node.status = 'removed' then
    perform espalier.refuse('ES004', format('The node %s was removed.', v_node.external_id));
  end if;
  insert into public.report_spools (node_id, spool_id) values (p_node_id, p_spool_id) on conflict (node_id, spool_id) do nothing;
  if found then
    -- A client server has one spool at a time: of those before it some are kept, for a sender that is late.
    delete from public.report_spools s where s.node_id = p_node_id and s.spool_id <> p_spool_id and s.spool_id not in (
      select b.spool_id from public.report_spools b where b.node_id = p_node_id and b.spool_id <> p_spool_id
      order by b.updated_at desc, b.spool_id limit 9);
  end if;
  select * into v_spool from public.report_spools where node_id = p_node_id and spool_id = p_spool_id for update;
  begin
    select * into v_done from espalier.apply_reports(v_node, v_spool, p_lines, p_log_lines_per_run, false);
  exception when others then
    if not espalier.is_about_the_data(sqlstate) then
      raise;
    end if;
    select * into v_done from espalier.apply_reports(v_node, v_spool, p_lines, p_log_lines_per_run, true);
  end;
  update public.report_spools
  set applied_seq = v_done.o_seq, refused = refused + v_done.o_refused, updated_at = now()
  where node_id = p_node_id and spool_id = p_spool_id;
  return jsonb_build_object('applied_seq', v_done.o_seq, 'refused', v_done.o_refused, 'lines', v_done.o_lines,
    'events', espalier.events_since(v_node.project_id, v_mark));
end
$$;
