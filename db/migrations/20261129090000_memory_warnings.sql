-- A counted update whose site warned of its memory is an event, as one that did not count is.

create or replace function public.schema_version() returns jsonb
language sql immutable set search_path = '' as $$
  -- The newest migration; each migration replaces this function.
  select to_jsonb('20261129090000'::text)
$$;

create or replace function espalier.apply_update(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
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

select espalier.set_rights();
