-- The journal's projection: one function a kind of record, and the two that drive them.

create function espalier.put_metrics(
  p_run public.federated_runs, p_round integer, p_scope text, p_node_id uuid, p_flower_node_id text, p_metrics jsonb, p_at timestamptz
) returns void
language plpgsql set search_path = '' as $$
-- A value that is no number fails its cast, and with it the record.
begin
  insert into public.metrics (run_id, round, scope, node_id, flower_node_id, name, value, at)
  select p_run.id, p_round, p_scope, p_node_id, p_flower_node_id, m.key, m.value::double precision, p_at
  from jsonb_each(p_metrics) as m
  on conflict (run_id, round, scope, flower_node_id, name) do update set value = excluded.value, at = excluded.at;
end
$$;

create function espalier.apply_run_opened(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
language plpgsql set search_path = '' as $$
begin
  update public.federated_runs
  set opened = r - array['seq', 'at', 'kind', 'attempt'], num_rounds = (r ->> 'num_rounds')::integer,
      status = case when status in ('pending', 'starting', 'paused') then 'running' else status end
  where id = p_run.id;
  perform espalier.add_attempt(p_run.id, r ->> 'attempt', p_run.series_id);
  perform espalier.start_run(p_run, r ->> 'attempt', p_at, (r ->> 'seq')::bigint);
end
$$;

create function espalier.apply_round_waiting(p_run public.federated_runs, r jsonb) returns void
language sql set search_path = '' as $$
  update public.federated_runs set waiting = jsonb_build_object('round', (r ->> 'round')::integer, 'available', (r ->> 'available')::integer,
    'wanted', (r ->> 'wanted')::integer, 'until', espalier.as_time(r ->> 'until'))
  where id = p_run.id
$$;

create function espalier.apply_round_opened(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_round integer := (r ->> 'round')::integer;
  v_nodes jsonb := espalier.as_array(r -> 'nodes');
  v_tries integer;
begin
  insert into public.rounds as o (run_id, round, attempt, nodes, needed, expected, opened_at)
  values (p_run.id, v_round, r ->> 'attempt', v_nodes, (r ->> 'needed')::integer, jsonb_array_length(v_nodes), p_at)
  on conflict (run_id, round) do update
    set status = 'open', attempt = excluded.attempt, nodes = excluded.nodes, needed = excluded.needed, expected = excluded.expected,
        opened_at = excluded.opened_at, closed_at = null, tries = o.tries + 1
    where o.status <> 'closed'
  returning tries into v_tries;
  if not found then
    perform espalier.refuse('ES006', 'The round is closed.');
  elsif v_tries > 1 then
    -- What the try before this one left: its numbers do not count, nor does what it had counted, and nodes that are not asked again
    -- will not answer. The next try has no update that an earlier round's node had brought to it.
    delete from public.metrics m using public.node_updates u
    where m.run_id = p_run.id and u.run_id = m.run_id and u.round = m.round and u.flower_node_id = m.flower_node_id
      and u.round < v_round and u.counted_in_round = v_round and u.metrics ? m.name;
    delete from public.metrics where run_id = p_run.id and round = v_round;
    update public.node_updates
    set status = case when round = v_round then 'lost' else 'late' end, counted_in_round = null, num_examples = null, metrics = '{}',
        cause = coalesce(cause, jsonb_build_object('type', 'RoundReopened', 'message', 'the round began anew, without this update'))
    where run_id = p_run.id
      and ((round = v_round and status in ('sent', 'counted')) or (round < v_round and counted_in_round = v_round));
  end if;
  update public.federated_runs set waiting = null where id = p_run.id and waiting is not null;
  insert into public.node_updates as u (run_id, round, node_id, flower_node_id, attempt, at)
  select p_run.id, v_round, espalier.node_of(p_run.project_id, n.id), n.id, r ->> 'attempt', p_at
  from jsonb_array_elements_text(v_nodes) as n (id)
  on conflict (run_id, round, flower_node_id, kind, wave) do update
    set status = 'sent', node_id = excluded.node_id, attempt = excluded.attempt, at = excluded.at, tries = u.tries + 1,
        message_id = null, counted_in_round = null, num_examples = null, metrics = '{}', bytes_down = null, bytes_up = null,
        timings = '{}', facts = '{}', cause = null;
  perform espalier.emit(p_run.project_id, 'fl.round.started', p_run.id, null, v_round,
    jsonb_build_object('nodes', v_nodes, 'needed', r -> 'needed'), p_at, (r ->> 'seq')::bigint, p_run.id || ':journal:' || (r ->> 'seq'));
end
$$;

create function espalier.apply_update(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_round integer := (r ->> 'round')::integer;
  v_node_id uuid := espalier.node_of(p_run.project_id, r ->> 'node_id');
  v_cause jsonb := espalier.cause_of(r -> 'cause');
begin
  if r ->> 'status' = 'sent' then
    perform espalier.refuse('ES006', 'An update record says what became of the message.');
  end if;
  perform 1 from public.rounds where run_id = p_run.id and round = v_round;
  if not found then
    insert into public.rounds (run_id, round, attempt, opened_at) values (p_run.id, v_round, r ->> 'attempt', p_at);
  end if;
  insert into public.node_updates as u (
    run_id, round, node_id, flower_node_id, kind, wave, status, attempt, message_id, counted_in_round, num_examples,
    metrics, bytes_down, bytes_up, timings, facts, cause, at)
  values (
    p_run.id, v_round, v_node_id, r ->> 'node_id', coalesce(r ->> 'update_kind', 'train'), coalesce((r ->> 'wave')::integer, 0),
    r ->> 'status', r ->> 'attempt', r ->> 'message_id',
    case when r ->> 'status' = 'counted' then coalesce((r ->> 'counted_in_round')::integer, v_round) end, (r ->> 'num_examples')::bigint,
    espalier.or_empty(r -> 'metrics'), (r ->> 'bytes_down')::bigint, (r ->> 'bytes_up')::bigint,
    espalier.or_empty(r -> 'timings'), espalier.or_empty(r -> 'facts'), v_cause, p_at)
  on conflict (run_id, round, flower_node_id, kind, wave) do update
    set node_id = excluded.node_id, status = excluded.status, attempt = excluded.attempt, message_id = excluded.message_id,
        counted_in_round = excluded.counted_in_round, num_examples = excluded.num_examples, metrics = excluded.metrics,
        bytes_down = excluded.bytes_down, bytes_up = excluded.bytes_up, timings = excluded.timings, facts = excluded.facts,
        cause = excluded.cause, at = excluded.at,
        tries = u.tries + (u.attempt is distinct from excluded.attempt)::integer
    where u.status <> 'counted' or (u.attempt is distinct from excluded.attempt and exists (
      select 1 from public.rounds o where o.run_id = u.run_id and o.round = u.round and o.status <> 'closed'));
  if not found then
    perform espalier.refuse('ES006', 'The update counted already.');
  end if;
  perform espalier.put_metrics(p_run, v_round, 'node', v_node_id, r ->> 'node_id', espalier.or_empty(r -> 'metrics'), p_at);
  if r ->> 'status' <> 'counted' then
    perform espalier.emit(p_run.project_id, 'fl.client.warned', p_run.id, v_node_id, v_round,
      jsonb_build_object('what', 'update.' || (r ->> 'status'), 'flower_node_id', r -> 'node_id', 'type', espalier.kind_of_error(v_cause)),
      p_at, (r ->> 'seq')::bigint, p_run.id || ':journal:' || (r ->> 'seq'));
  elsif espalier.or_empty(r -> 'facts') ? 'memory_warning' then
    perform espalier.emit(p_run.project_id, 'fl.client.warned', p_run.id, v_node_id, v_round,
      jsonb_build_object('what', 'update.memory', 'flower_node_id', r -> 'node_id'),
      p_at, (r ->> 'seq')::bigint, p_run.id || ':journal:' || (r ->> 'seq'));
  end if;
end
$$;

create function espalier.apply_round_closed(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_round integer := (r ->> 'round')::integer;
  v_key text := p_run.id || ':journal:' || (r ->> 'seq');
begin
  if jsonb_typeof(r -> 'commit') is distinct from 'object' then
    perform espalier.refuse('ES006', 'No round is closed without its commit.');
  end if;
  insert into public.rounds as o (
    run_id, round, status, attempt, expected, counted, carried, num_examples, metrics, server_metrics, seconds, aggregate_s,
    bytes_down, bytes_up, commit, opened_at, closed_at)
  values (
    p_run.id, v_round, 'closed', r ->> 'attempt', (r ->> 'expected')::integer, (r ->> 'counted')::integer,
    coalesce((r ->> 'carried')::integer, 0), (r ->> 'num_examples')::bigint,
    espalier.or_empty(r -> 'metrics'), espalier.or_empty(r -> 'server_metrics'), (r ->> 'seconds')::double precision,
    (r ->> 'aggregate_s')::double precision, (r ->> 'bytes_down')::bigint, (r ->> 'bytes_up')::bigint, r -> 'commit', p_at, p_at)
  on conflict (run_id, round) do update
    set status = 'closed', attempt = excluded.attempt, expected = coalesce(excluded.expected, o.expected), counted = excluded.counted, carried = excluded.carried,
        num_examples = excluded.num_examples, metrics = excluded.metrics, server_metrics = excluded.server_metrics,
        seconds = excluded.seconds, aggregate_s = excluded.aggregate_s, bytes_down = excluded.bytes_down,
        bytes_up = excluded.bytes_up, commit = excluded.commit, closed_at = excluded.closed_at
    where o.status <> 'closed';
  if not found then
    perform espalier.refuse('ES006', 'The round is closed already.');
  end if;
  perform espalier.put_metrics(p_run, v_round, 'clients', null, null, espalier.or_empty(r -> 'metrics'), p_at);
  perform espalier.put_metrics(p_run, v_round, 'server', null, null, espalier.or_empty(r -> 'server_metrics'), p_at);
  perform espalier.emit(p_run.project_id, 'fl.aggregate.completed', p_run.id, null, v_round,
    jsonb_build_object('aggregate_s', r -> 'aggregate_s', 'sha256', r -> 'commit' -> 'sha256'), p_at, (r ->> 'seq')::bigint, v_key || ':aggregate');
  perform espalier.emit(p_run.project_id, 'fl.round.completed', p_run.id, null, v_round,
    jsonb_build_object('counted', r -> 'counted', 'carried', r -> 'carried', 'expected', r -> 'expected', 'seconds', r -> 'seconds',
      'metrics', espalier.or_empty(r -> 'metrics') || espalier.or_empty(r -> 'server_metrics')), p_at, (r ->> 'seq')::bigint, v_key);
end
$$;

create function espalier.apply_round_scored(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_round integer := (r ->> 'round')::integer;
  v_metrics jsonb := espalier.or_empty(r -> 'metrics');
begin
  update public.rounds set metrics = metrics || v_metrics where run_id = p_run.id and round = v_round and status = 'closed';
  if not found then
    perform espalier.refuse('ES006', format('Round %s is not closed.', v_round));
  end if;
  perform espalier.put_metrics(p_run, v_round, 'clients', null, null, v_metrics, p_at);
end
$$;

create function espalier.apply_artifact(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
language sql set search_path = '' as $$
  -- Other bytes under the same name have no copy yet, wherever the copy of the earlier ones is.
  insert into public.artifacts as f (id, project_id, run_id, name, role, uri, sha256, size_bytes, format, round, parents, score, created_at)
  values (md5(p_run.id || ':' || (r ->> 'path'))::uuid, p_run.project_id, p_run.id, r ->> 'name', r ->> 'role', r ->> 'path', r ->> 'sha256',
    (r ->> 'size_bytes')::bigint, r ->> 'format', (r ->> 'round')::integer, coalesce(r -> 'parents', '[]'), nullif(r -> 'score', 'null'), p_at)
  on conflict (run_id, uri) do update
    set name = excluded.name, role = excluded.role, sha256 = excluded.sha256, size_bytes = excluded.size_bytes,
        format = excluded.format, round = excluded.round, parents = excluded.parents, score = excluded.score,
        created_at = excluded.created_at, removed_at = null, stored_at = case when f.sha256 = excluded.sha256 then f.stored_at end
$$;

create function espalier.apply_artifact_removed(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
language plpgsql set search_path = '' as $$
begin
  update public.artifacts set removed_at = p_at where run_id = p_run.id and uri = r ->> 'path' and sha256 = r ->> 'sha256';
  if not found then
    perform espalier.refuse('ES006', format('No artifact of this run is %s with this sha256.', r ->> 'path'));
  end if;
end
$$;

create function espalier.apply_pause(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_paused boolean := r ->> 'kind' = 'run.paused';
begin
  update public.federated_runs set status = case when v_paused then 'paused' else 'running' end
  where id = p_run.id and status = case when v_paused then 'running' else 'paused' end;
  perform espalier.emit(p_run.project_id, case when v_paused then 'fl.federation.paused' else 'fl.federation.resumed' end, p_run.id, null, null,
    jsonb_build_object('after_round', r -> 'after_round'), p_at, (r ->> 'seq')::bigint, p_run.id || ':journal:' || (r ->> 'seq'));
end
$$;

create function espalier.apply_run_closed(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_run public.federated_runs;
  v_attempt public.run_attempts;
begin
  if not coalesce(espalier.has_ended(r ->> 'status'), false) then
    perform espalier.refuse('ES006', 'Its status is no end of a run.');
  end if;
  update public.federated_runs set waiting = null, ended_early = left(r ->> 'ended_early', 500) where id = p_run.id;
  select * into v_run from public.federated_runs where id = p_run.id;
  v_attempt := espalier.newest_attempt(p_run.id);
  if v_attempt.flower_run_id is distinct from (r ->> 'attempt') and v_attempt.flower_run_id is not null and exists (
    select 1 from public.run_attempts where run_id = p_run.id and flower_run_id = r ->> 'attempt') then
    -- A later attempt goes on with the run: this end is its attempt's alone.
    update public.run_attempts set status = r ->> 'status', ended_at = p_at where flower_run_id = r ->> 'attempt';
  elsif v_run.status = r ->> 'status' then
    -- Concluded by the server before this line was read (or this is a replay): the journal knows the cause better.
    perform espalier.put_cause(v_run, espalier.cause_of(r -> 'cause'));
    perform espalier.emit_end(v_run, v_run.status, espalier.cause_of(r -> 'cause'), r ->> 'attempt', p_at, (r ->> 'seq')::bigint);
  else
    perform espalier.end_run(v_run, r ->> 'status', espalier.cause_of(r -> 'cause'), r ->> 'attempt', p_at, (r ->> 'seq')::bigint);
  end if;
end
$$;

create function espalier.apply_record(p_run public.federated_runs, r jsonb) returns void
language plpgsql set search_path = '' as $$
declare
  v_at timestamptz := espalier.as_time(r ->> 'at');
begin
  if v_at is null then
    perform espalier.refuse('ES006', 'at is no time.');
  end if;
  case r ->> 'kind'
    when 'run.opened' then perform espalier.apply_run_opened(p_run, r, v_at);
    when 'round.waiting' then perform espalier.apply_round_waiting(p_run, r);
    when 'round.opened' then perform espalier.apply_round_opened(p_run, r, v_at);
    when 'update' then perform espalier.apply_update(p_run, r, v_at);
    when 'round.closed' then perform espalier.apply_round_closed(p_run, r, v_at);
    when 'round.scored' then perform espalier.apply_round_scored(p_run, r, v_at);
    when 'artifact' then perform espalier.apply_artifact(p_run, r, v_at);
    when 'artifact.removed' then perform espalier.apply_artifact_removed(p_run, r, v_at);
    when 'run.paused' then perform espalier.apply_pause(p_run, r, v_at);
    when 'run.resumed' then perform espalier.apply_pause(p_run, r, v_at);
    when 'run.closed' then perform espalier.apply_run_closed(p_run, r, v_at);
    else perform espalier.refuse('ES006', 'Its kind is unknown.');
  end case;
end
$$;

create function espalier.apply_records(
  p_run public.federated_runs, p_records jsonb, p_careful boolean, out o_seq bigint, out o_refused integer
)
language plpgsql set search_path = '' as $$
-- Apply what is newer than p_run.journal_seq; o_seq is how far that came.
-- careful: each record in its own subtransaction, so that one that fails leaves the others.
declare
  v_record jsonb;
  v_seq bigint;
  v_why text;
  v_column text;
  v_constraint text;
begin
  o_seq := p_run.journal_seq;
  o_refused := 0;
  for v_record in select value from jsonb_array_elements(p_records) loop
    v_why := null;
    v_seq := case when jsonb_typeof(v_record) = 'object' and v_record ->> 'seq' ~ '^[1-9][0-9]{0,17}$' then (v_record ->> 'seq')::bigint end;
    continue when v_seq <= o_seq;
    if v_seq is null then
      v_why := 'It has no seq.';
    elsif p_careful then
      begin
        perform espalier.apply_record(p_run, v_record);
      exception when others then
        if not espalier.is_about_the_data(sqlstate) then
          raise;
        end if;
        get stacked diagnostics v_column = column_name, v_constraint = constraint_name;
        v_why := espalier.why_refused(sqlstate, sqlerrm, v_column, v_constraint);
      end;
    else
      perform espalier.apply_record(p_run, v_record);
    end if;
    if v_why is not null then
      o_refused := o_refused + 1;
      perform espalier.emit(p_run.project_id, 'fl.client.warned', p_run.id, null, null,
        jsonb_build_object('what', 'journal.refused', 'seq', v_seq, 'why', v_why, 'kind', case when v_seq is not null then
          espalier.known(v_record -> 'kind', array['run.opened', 'round.waiting', 'round.opened', 'update', 'round.closed', 'round.scored',
            'artifact', 'artifact.removed', 'run.paused', 'run.resumed', 'run.closed']) end),
        now(), v_seq, p_run.id || ':refused:' || coalesce(v_seq::text, md5(v_record::text)));
    end if;
    o_seq := coalesce(v_seq, o_seq);
  end loop;
end
$$;

create function public.apply_journal(p_run_id uuid, p_records jsonb, p_end_offset bigint) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_run public.federated_runs;
  v_seq bigint;
  v_refused integer;
  v_mark bigint;
begin
  perform espalier.lock_project(espalier.project_of_run(p_run_id));
  select * into v_run from public.federated_runs where id = p_run_id for no key update;
  v_mark := espalier.last_event(v_run.project_id);
  begin
    select * into v_seq, v_refused from espalier.apply_records(v_run, p_records, false);
  exception when others then
    -- Almost no batch holds a bad record: subtransactions are paid for only when one does.
    if not espalier.is_about_the_data(sqlstate) then
      raise;
    end if;
    select * into v_seq, v_refused from espalier.apply_records(v_run, p_records, true);
  end;
  update public.federated_runs
  set journal_seq = v_seq, journal_offset = greatest(journal_offset, p_end_offset)
  where id = p_run_id;
  perform espalier.fail_open_rounds(p_run_id);
  return (
    select jsonb_build_object('journal_seq', journal_seq, 'journal_offset', journal_offset, 'status', status,
      'refused', v_refused, 'events', espalier.events_since(project_id, v_mark))
    from public.federated_runs where id = p_run_id
  );
end
$$;

create function public.forget_projection(p_run_id uuid) returns jsonb
language plpgsql set search_path = '' as $$
begin
  perform espalier.lock_project(espalier.project_of_run(p_run_id));
  update public.federated_runs set journal_seq = 0, journal_offset = 0 where id = p_run_id;
  delete from public.rounds where run_id = p_run_id;
  -- A promoted artifact is a model's: the replay writes it again under the same id.
  delete from public.artifacts a where run_id = p_run_id and not exists (select 1 from public.models m where m.artifact_id = a.id);
  delete from public.events where run_id = p_run_id and journal_seq is not null;
  return 'null';
end
$$;
