-- What is read. Pages are keyset pages: rows with key > the last one seen, in ascending order. Where the newest comes
-- first, key is the negated number. security_invoker: whoever reads is held by the row security of the tables below.

create view public.project_list with (security_invoker = true) as
select p.key, p.id, p.slug, p.name, p.created_at, n.id as coordinator_node_id, n.external_id as coordinator_external_id,
  n.display_name as coordinator_name, c.server_id, c.host, c.lease_until
from public.projects p
left join public.nodes n on n.project_id = p.id and n.role = 'coordinator'
left join public.coordinators c on c.project_id = p.id;

create view public.node_list with (security_invoker = true) as
select n.key, n.id, n.project_id, n.role, n.external_id, n.display_name, n.display_name as node_name, n.status, n.reason, n.flower_node_id,
  n.public_key, n.hardware, n.datasets, n.facts, n.activity, s.id as session_id, s.status as session_status,
  n.reported_at, n.last_seen_at, n.status_at, n.created_at, n.removed_at
from public.nodes n
left join lateral (
  select s.id, s.status from public.node_sessions s where s.node_id = n.id order by s.key desc limit 1
) s on true;

create view public.session_list with (security_invoker = true) as
select -s.key as key, s.id, n.project_id, s.node_id, n.display_name as node_name, s.kind, s.status, s.pid, s.flower_node_id,
  s.runtime_config, s.reason, s.last_lines, s.started_at, s.status_at, s.ended_at
from public.node_sessions s join public.nodes n on n.id = s.node_id;

create view public.run_list with (security_invoker = true) as
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

create view public.attempt_list with (security_invoker = true) as
select a.key, r.project_id, a.run_id, a.attempt, a.flower_run_id, a.series_id, a.status, a.reason, a.created_at, a.started_at, a.ended_at,
  a.is_reopened
from public.run_attempts a join public.federated_runs r on r.id = a.run_id;

create view public.round_list with (security_invoker = true) as
select o.key, r.project_id, o.run_id, o.round, o.status, o.attempt, o.tries, o.nodes, o.needed, o.expected, o.counted, o.num_examples,
  o.metrics, o.server_metrics, o.seconds, o.aggregate_s, o.bytes_down, o.bytes_up, o.commit, o.opened_at, o.closed_at, o.carried
from public.rounds o join public.federated_runs r on r.id = o.run_id;

create view public.update_list with (security_invoker = true) as
select u.key, r.project_id, u.run_id, u.round, u.node_id, u.flower_node_id, coalesce(n.display_name, u.facts ->> 'node_name') as node_name,
  u.kind, u.wave, u.status, u.attempt, u.tries, u.message_id, u.counted_in_round, u.num_examples, u.metrics, u.bytes_down, u.bytes_up,
  u.timings, u.facts, u.cause, u.at
from public.node_updates u join public.federated_runs r on r.id = u.run_id left join public.nodes n on n.id = u.node_id;

create view public.metric_list with (security_invoker = true) as
select m.key, r.project_id, m.run_id, m.round, m.scope, m.node_id, m.flower_node_id, n.display_name as node_name, m.name, m.value, m.at
from public.metrics m join public.federated_runs r on r.id = m.run_id left join public.nodes n on n.id = m.node_id;

create view public.event_list with (security_invoker = true) as
select e.key, e.project_id, e.run_id, e.node_id, n.display_name as node_name, e.round, e.name, e.data, e.journal_seq, e.at
from public.events e left join public.nodes n on n.id = e.node_id;

create view public.log_list with (security_invoker = true) as
select l.key, coalesce(r.project_id, n.project_id) as project_id, l.run_id, l.node_id, n.display_name as node_name, l.flower_run_id, l.stream, l.source, l.level, l.text,
  l.message_id, l.at, l.received_at
from public.log_lines l left join public.federated_runs r on r.id = l.run_id left join public.nodes n on n.id = l.node_id;

create view public.artifact_list with (security_invoker = true) as
select -f.key as key, f.id, f.project_id, f.run_id, f.name, f.role, f.uri, f.sha256, f.size_bytes, f.format, f.round, f.parents, f.created_at,
  f.score, f.removed_at, f.stored_uri, f.stored_at, f.to_do
from public.artifacts f;

create view public.model_list with (security_invoker = true) as
select -m.key as key, m.id, m.project_id, m.version, m.artifact_id, m.run_id, m.facts ->> 'name' as name, m.uri, m.sha256, m.promoted_at,
  m.promoted_by, m.why, m.size_bytes, m.attempt, m.round, m.parent_version, m.facts, coalesce(p.model_id = m.id, false) as is_latest
from public.models m
left join lateral (
  select p.model_id from public.model_promotions p where p.project_id = m.project_id order by -p.key limit 1
) p on true;

create view public.model_source_list with (security_invoker = true) as
select s.key, s.project_id, s.model_id, m.version, s.node_id, n.display_name as node_name, s.flower_node_id, s.updates, s.first_round,
  s.last_round, s.num_examples, s.round_examples, s.datasets
from public.model_sources s join public.models m on m.id = s.model_id left join public.nodes n on n.id = s.node_id;

create view public.promotion_list with (security_invoker = true) as
select -p.key as key, p.project_id, p.model_id, m.version, p.from_version, p.promoted_at, p.promoted_by, p.why
from public.model_promotions p join public.models m on m.id = p.model_id;

create view public.audit_list with (security_invoker = true) as
select -g.key as key, g.project_id, g.at, g.actor, g.action, g.subject, g.facts from public.audit_log g;

create view public.invitation_list with (security_invoker = true) as
select -i.key as key, i.id, i.project_id, i.label, i.created_at, i.expires_at, i.used_at, i.node_id,
  case when i.used_at is not null then 'used' when i.expires_at <= now() then 'expired' else 'open' end as status
from public.invitations i;
