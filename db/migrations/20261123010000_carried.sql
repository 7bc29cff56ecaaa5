-- Updates of earlier rounds hide none that is missing.

create or replace function public.schema_version() returns jsonb
language sql immutable set search_path = '' as $$
  -- The newest migration; each migration replaces this function.
  select to_jsonb('20261123010000'::text)
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
    jsonb_build_object('counted', r -> 'counted', 'carried', r -> 'carried', 'expected', r -> 'expected', 'seconds', r -> 'seconds',
      'metrics', espalier.or_empty(r -> 'metrics') || espalier.or_empty(r -> 'server_metrics')), p_at, (r ->> 'seq')::bigint, v_key);
end
$$;

create or replace view public.round_table with (security_invoker = true) as
select o.key, r.project_id, o.run_id, o.round, o.status, o.tries, jsonb_array_length(o.nodes) as asked, o.needed, o.counted,
  case when o.status = 'closed' then o.expected - (o.counted - coalesce(o.carried, 0)) end as missing, o.num_examples,
  (m.metrics ->> 'loss')::double precision as loss,
  (m.metrics ->> 'loss')::double precision - (b.metrics ->> 'loss')::double precision as loss_change,
  (m.metrics ->> 'accuracy')::double precision as accuracy, m.metrics, o.seconds, o.aggregate_s, o.bytes_down, o.bytes_up,
  o.opened_at, o.closed_at
from public.rounds o
join public.federated_runs r on r.id = o.run_id
cross join lateral (select o.metrics || o.server_metrics as metrics) m
left join lateral (
  select before.metrics || before.server_metrics as metrics from public.rounds before
  where before.run_id = o.run_id and before.round = o.round - 1 and before.status = 'closed'
) b on true;

create or replace view public.run_timeline with (security_invoker = true) as
select e.key, e.project_id, e.run_id, e.round, e.name, e.data ->> 'what' as what, e.node_id, n.display_name as node_name,
  case e.name
    when 'fl.federation.created' then 'The run was created'
    when 'fl.federation.started' then 'An attempt began'
    when 'fl.federation.paused' then 'Paused'
    when 'fl.federation.resumed' then 'Resumed'
    when 'fl.federation.stopped' then 'Stopped'
    when 'fl.federation.completed' then 'Completed'
    when 'fl.federation.failed' then concat_ws(': ', 'Failed', e.data #>> '{cause,type}')
    when 'fl.client.warned' then concat_ws(': ', coalesce(n.display_name, 'The run'), e.data ->> 'what', e.data ->> 'type')
    when 'fl.round.started' then format('Round %s began', e.round)
    when 'fl.round.completed' then
      format('Round %s closed: %s of %s counted', e.round, (e.data ->> 'counted')::integer - coalesce((e.data ->> 'carried')::integer, 0),
        e.data ->> 'expected')
      || case when (e.data ->> 'carried')::integer > 0 then format(', and %s of earlier rounds', e.data ->> 'carried') else '' end
    when 'fl.aggregate.completed' then format('Round %s was aggregated', e.round)
    when 'fl.artifact.promoted' then 'A model was promoted'
    else e.name
  end as title,
  round(extract(epoch from e.at - r.created_at), 3)::double precision as seconds, e.data, e.at
from public.events e
join public.federated_runs r on r.id = e.run_id
left join public.nodes n on n.id = e.node_id;

select espalier.set_rights();
