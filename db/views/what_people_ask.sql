-- The four questions of a page, each one view: how do the runs stand, how did a run's rounds go, how are the nodes, what
-- happened when. Readers are held by row security, so these call no function of schema espalier, which readers may not.

create view public.run_overview with (security_invoker = true) as
select r.key, r.id, r.project_id, p.slug as project, r.label, r.app, r.opened ->> 'workload' as workload,
  r.opened ->> 'strategy' as strategy, r.status,
  coalesce(r.reason, r.cause ->> 'type', f.type) as reason, r.rounds_done, r.num_rounds,
  round(r.rounds_done::numeric / nullif(r.num_rounds, 0), 3)::double precision as progress, o.round as newest_round, o.asked,
  (r.metrics ->> 'loss')::double precision as loss, (r.metrics ->> 'accuracy')::double precision as accuracy, r.metrics,
  r.attempts, r.warnings, r.seconds,
  case when r.status in ('starting', 'running') then
    round(((r.num_rounds - r.rounds_done) * s.seconds_a_round)::numeric, 1)::double precision end as seconds_left,
  r.created_at, r.started_at, r.ended_at
from public.run_list r
join public.projects p on p.id = r.project_id
left join lateral (
  select o.round, jsonb_array_length(o.nodes) as asked from public.rounds o where o.run_id = r.id order by o.round desc limit 1
) o on true
left join lateral (
  select avg(o.seconds) as seconds_a_round from public.rounds o where o.run_id = r.id and o.status = 'closed'
) s on true
left join lateral (
  -- The cause itself is for the coordinator; its kind is told to all.
  select e.data #>> '{cause,type}' as type from public.events e
  where e.run_id = r.id and r.status = 'failed' and e.name = 'fl.federation.failed' order by e.key desc limit 1
) f on true;
comment on view public.run_overview is 'How do the runs stand? Newest first; loss and accuracy are of the last closed round, the server''s over the clients''.';

create view public.round_table with (security_invoker = true) as
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
comment on view public.round_table is 'How did a run''s rounds go? Oldest first; loss_change is against the round before.';

create view public.node_overview with (security_invoker = true) as
select n.key, n.id, n.project_id, n.external_id, n.display_name, n.role, n.status, n.reason, n.session_status, n.flower_node_id,
  n.hardware, n.datasets, n.last_seen_at,
  round(extract(epoch from now() - n.last_seen_at), 1)::double precision as silent_s,
  u.last_run_id, u.last_round, u.last_status, u.last_at, coalesce(u.messages, 0) as messages, u.counted, u.failed
from public.node_list n
left join lateral (
  -- Of its last 100 messages, so that a node of a thousand rounds is not counted through at each look.
  select (array_agg(h.run_id order by h.key desc))[1] as last_run_id, (array_agg(h.round order by h.key desc))[1] as last_round,
    (array_agg(h.status order by h.key desc))[1] as last_status, max(h.at) as last_at, count(*) as messages,
    count(*) filter (where h.status = 'counted') as counted,
    count(*) filter (where h.status in ('refused', 'failed', 'lost')) as failed
  from (
    select u.key, u.run_id, u.round, u.status, u.at from public.node_updates u where u.node_id = n.id order by u.key desc limit 100
  ) h
  having count(*) > 0
) u on true;
comment on view public.node_overview is 'How are the nodes? Oldest first; messages, counted and failed are of the node''s last 100.';

create view public.run_timeline with (security_invoker = true) as
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
comment on view public.run_timeline is 'What happened when in a run? seconds is since its intent; at is the journal''s clock where the journal said it.';

create view public.run_size with (security_invoker = true) as
select -r.key as key, r.id as run_id, r.project_id,
  (select count(*) from public.rounds o where o.run_id = r.id) as rounds,
  (select count(*) from public.node_updates u where u.run_id = r.id) as updates,
  (select count(*) from public.metrics m where m.run_id = r.id) as metrics,
  (select count(*) from public.log_lines l where l.run_id = r.id) as log_lines,
  (select count(*) from public.events e where e.run_id = r.id) as events
from public.federated_runs r;
comment on view public.run_size is 'How many rows does a run have? Whoever is held by row security counts what they may read.';
