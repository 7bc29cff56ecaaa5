-- Rounds that have policies: who is waited for, what came late and counts all the same, what sites score apart from training.

create or replace function public.schema_version() returns jsonb
language sql immutable set search_path = '' as $$
  -- The newest migration; each migration replaces this function.
  select to_jsonb('20261122160000'::text)
$$;

alter table public.rounds add column carried integer;
comment on column public.rounds.carried is 'How many of the counted updates are of earlier rounds.';
comment on column public.node_updates.status is '
  sent ──▶ counted | refused | failed | lost | late      lost ──its reply comes after all──▶ late
  A round that is opened again sends again: the row is reused, tries + 1. What counted stays, unless its round begins anew without it:
  then it is lost, or late if it had been carried into that round.';
alter table public.federated_runs
  add column waiting jsonb constraint federated_runs_waiting_is_object check (jsonb_typeof(waiting) = 'object'),
  add column ended_early text;
comment on column public.federated_runs.waiting is 'While too few nodes are there: round, available, wanted, and until when the run waits.';
comment on column public.federated_runs.ended_early is 'Why a completed run did not do all its rounds.';

create or replace view public.run_list with (security_invoker = true) as
select -r.key as key, r.id, r.project_id, r.label, r.app, r.fab_hash, r.origin, r.status, a.reason, c.cause, r.config, r.opened,
  r.series_id, a.flower_run_id, coalesce(a.attempt, 0) as attempts, r.num_rounds, coalesce(o.rounds_done, 0) as rounds_done,
  coalesce(m.metrics, '{}') as metrics, w.warnings, r.journal_seq, r.journal_offset, r.created_at, r.started_at, r.ended_at,
  round(extract(epoch from coalesce(r.ended_at, now()) - r.started_at), 3)::double precision as seconds, r.waiting, r.ended_early
from public.federated_runs r
left join public.run_causes c on c.run_id = r.id
left join lateral (
  select a.attempt, a.flower_run_id, a.reason from public.run_attempts a where a.run_id = r.id order by a.attempt desc limit 1
) a on true
left join lateral (
  select count(*) as rounds_done, max(o.round) as last_round from public.rounds o where o.run_id = r.id and o.status = 'closed'
) o on true
left join lateral (
  select o2.metrics || o2.server_metrics as metrics from public.rounds o2 where o2.run_id = r.id and o2.round = o.last_round
) m on true
left join lateral (
  select count(*) as warnings from public.events e where e.run_id = r.id and e.name = 'fl.client.warned'
) w on true;

create or replace view public.round_list with (security_invoker = true) as
select o.key, r.project_id, o.run_id, o.round, o.status, o.attempt, o.tries, o.nodes, o.needed, o.expected, o.counted, o.num_examples,
  o.metrics, o.server_metrics, o.seconds, o.aggregate_s, o.bytes_down, o.bytes_up, o.commit, o.opened_at, o.closed_at, o.carried
from public.rounds o join public.federated_runs r on r.id = o.run_id;

create function espalier.apply_round_waiting(p_run public.federated_runs, r jsonb) returns void
language sql set search_path = '' as $$
  update public.federated_runs set waiting = jsonb_build_object('round', (r ->> 'round')::integer, 'available', (r ->> 'available')::integer,
    'wanted', (r ->> 'wanted')::integer, 'until', espalier.as_time(r ->> 'until'))
  where id = p_run.id
$$;

create or replace function espalier.apply_round_opened(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
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

create or replace function espalier.apply_round_closed(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
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
    jsonb_build_object('counted', r -> 'counted', 'expected', r -> 'expected', 'seconds', r -> 'seconds',
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

create or replace function espalier.apply_run_closed(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
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

create or replace function espalier.apply_record(p_run public.federated_runs, r jsonb) returns void
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

create or replace function espalier.end_run(
  p_run public.federated_runs, p_status text, p_cause jsonb, p_flower_run_id text, p_at timestamptz, p_journal_seq bigint
) returns void
language plpgsql set search_path = '' as $$
-- Write the end of a run and of its open attempt. The caller has looked at the transition.
begin
  update public.federated_runs set status = p_status, ended_at = p_at, waiting = null where id = p_run.id;
  delete from public.run_causes where run_id = p_run.id;
  perform espalier.put_cause(p_run, p_cause);
  update public.run_attempts set status = p_status, ended_at = p_at
  where run_id = p_run.id and (status in ('starting', 'running') or (flower_run_id = p_flower_run_id and status <> 'lost'));
  perform espalier.fail_open_rounds(p_run.id);
  perform espalier.emit_end(p_run, p_status, p_cause, p_flower_run_id, p_at, p_journal_seq);
end
$$;

select espalier.set_rights();
