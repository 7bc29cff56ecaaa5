-- Views named after what people ask, how many rows a run has, pruning in batches, a bound for what a site says, refusals that
-- repeat no value, and one list of who reads what.

create or replace function public.schema_version() returns jsonb
language sql immutable set search_path = '' as $$
  -- The newest migration; each migration replaces this function.
  select to_jsonb('20261122140000'::text)
$$;

-- For who pages through run_list or run_overview without naming a project, as a participant's page does: 128 ms became 11.
create index federated_runs_newest_of_all on public.federated_runs ((-key));

alter table public.nodes
  add column said integer not null default 0, add column said_since timestamptz not null default now(),
  add column moved integer not null default 0, add column moved_since timestamptz not null default now();
comment on column public.nodes.said is 'Warnings that it caused in the hour since said_since; beyond espalier.said_in_an_hour() they are counted alone.';
comment on column public.nodes.moved is 'Comings, goings and sessions in the hour since moved_since, likewise.';
comment on table public.run_causes is 'Why a run failed. A table of its own, for the coordinator alone: it may quote every node. What is a node''s own is in node_updates.';
create index log_lines_of_no_run on public.log_lines (node_id) where run_id is null;

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
  case when o.status = 'closed' then o.expected - o.counted end as missing, o.num_examples,
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
    when 'fl.round.completed' then format('Round %s closed: %s counted', e.round, concat_ws(' of ', e.data ->> 'counted', e.data ->> 'expected'))
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

drop function public.prune_log_lines(uuid, double precision);

create function espalier.why_refused(p_sqlstate text, p_message text, p_column text, p_constraint text) returns text
language plpgsql immutable set search_path = '' as $$
-- Say what is wrong with a record in words that everybody may read: Postgres' own message may repeat what a site sent, ours
-- (class ES) never do. Of Postgres' message no more is taken than the name of a type.
declare
  v_type text := substring(p_message from '^invalid input syntax for type ([a-z ]+)');
begin
  if left(p_sqlstate, 2) = 'ES' then
    return p_message;
  end if;
  return case p_sqlstate
    when '22P02' then 'A value is no ' || coalesce(v_type, 'value of its type')
    when '22003' then 'A number is out of range'
    when '22007' then 'A time is none'
    when '22008' then 'A time is none'
    when '22023' then 'A value has the wrong type'
    when '23502' then format('%s is missing', coalesce(nullif(p_column, ''), 'A value'))
    when '23503' then format('It refers to what is not there (%s)', p_constraint)
    when '23505' then format('It is there already (%s)', p_constraint)
    when '23514' then format('A value is not allowed (%s)', p_constraint)
    else 'The database does not take it' end || format(' (SQLSTATE %s).', p_sqlstate);
end
$$;

create function espalier.kind_of_error(p_cause jsonb) returns text
language sql immutable set search_path = '' as $$
  -- The name of an exception, as code may have it; a site could put anything there.
  select case when p_cause ->> 'type' ~ '^[A-Za-z_][A-Za-z0-9_.]{0,99}$' then p_cause ->> 'type' when p_cause is not null then 'Error' end
$$;

create function espalier.as_flower_id(p_value text) returns text
language sql immutable set search_path = '' as $$
  select p_value where p_value ~ '^[0-9]{1,20}$'
$$;

create function espalier.known(p_value jsonb, p_words text[]) returns text
language sql immutable set search_path = '' as $$
  -- A word that somebody sent, if it is one of ours.
  select p_value #>> '{}' where jsonb_typeof(p_value) = 'string' and p_value #>> '{}' = any (p_words)
$$;

create or replace function espalier.emit(
  p_project_id uuid, p_name text, p_run_id uuid default null, p_node_id uuid default null, p_round integer default null,
  p_data jsonb default '{}', p_at timestamptz default now(), p_journal_seq bigint default null, p_dedupe_key text default null
) returns void
language plpgsql set search_path = '' as $$
declare
  v_name text := p_name;
  v_data jsonb := p_data;
  v_said integer;
begin
  if p_node_id is not null and p_journal_seq is null then
    -- What a site says could be said without end; what a journal says ends with its run.
    if exists (select from public.events where project_id = p_project_id and dedupe_key = p_dedupe_key) then
      return;
    end if;
    -- Comings and goings are counted apart: what else a node says must not hide that it is gone. That it is lost or removed is
    -- the coordinator's word, and always told.
    if p_data ->> 'to' in ('lost', 'removed') then
      v_said := 0;
    else
      v_said := espalier.count_said(p_node_id, p_name in ('fl.client.joined', 'fl.client.dropped'));
    end if;
    if v_said > espalier.said_in_an_hour() then
      return;
    elsif v_said = espalier.said_in_an_hour() then
      v_name := 'fl.client.warned';
      v_data := jsonb_build_object('what', 'node.noisy', 'in_an_hour', v_said);
    elsif length(p_data::text) > 8192 then
      v_data := jsonb_build_object('what', p_data -> 'what', 'cut', true);
    end if;
  end if;
  insert into public.events (project_id, name, run_id, node_id, round, data, at, journal_seq, dedupe_key)
  values (p_project_id, v_name, p_run_id, p_node_id, p_round, v_data, p_at, p_journal_seq, p_dedupe_key)
  on conflict (project_id, dedupe_key) where dedupe_key is not null do nothing;
end
$$;

create function espalier.said_in_an_hour() returns integer
language sql immutable set search_path = '' as $$
  -- Warnings that a node may cause; and again as many comings, goings and sessions. A SuperNode that dies at once is started again
  -- 125 times an hour, which is 375 of those.
  select 500
$$;

create function espalier.count_said(p_node_id uuid, p_moved boolean) returns integer
language plpgsql set search_path = '' as $$
-- Count one more, a warning or a movement, and give how many they are in the hour that began with the first.
declare
  v_count integer;
begin
  if p_moved then
    update public.nodes
    set moved = case when moved_since > now() - interval '1 hour' then moved + 1 else 1 end,
        moved_since = case when moved_since > now() - interval '1 hour' then moved_since else now() end
    where id = p_node_id returning moved into v_count;
  else
    update public.nodes
    set said = case when said_since > now() - interval '1 hour' then said + 1 else 1 end,
        said_since = case when said_since > now() - interval '1 hour' then said_since else now() end
    where id = p_node_id returning said into v_count;
  end if;
  return v_count;
end
$$;

create or replace function espalier.emit_end(
  p_run public.federated_runs, p_status text, p_cause jsonb, p_flower_run_id text, p_at timestamptz, p_journal_seq bigint
) returns void
language sql set search_path = '' as $$
  -- Events are shown to every participant: the node by its Flower id, which its rounds show too, and the kind of error. Never
  -- a site's name, nor what it printed.
  select espalier.emit_once_an_attempt(p_run, 'fl.federation.' || p_status, p_flower_run_id,
    case when p_cause is null then '{}' else jsonb_build_object('cause', jsonb_build_object(
      'node_id', espalier.as_flower_id(p_cause ->> 'node_id'), 'type', espalier.kind_of_error(p_cause))) end,
    p_at, p_journal_seq)
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
    -- What the try before this one left: nodes that are not asked again will not answer, and its numbers do not count.
    delete from public.metrics where run_id = p_run.id and round = v_round;
    update public.node_updates set status = 'lost' where run_id = p_run.id and round = v_round and status = 'sent';
  end if;
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
  end if;
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
    run_id, round, status, attempt, expected, counted, num_examples, metrics, server_metrics, seconds, aggregate_s,
    bytes_down, bytes_up, commit, opened_at, closed_at)
  values (
    p_run.id, v_round, 'closed', r ->> 'attempt', (r ->> 'expected')::integer, (r ->> 'counted')::integer, (r ->> 'num_examples')::bigint,
    espalier.or_empty(r -> 'metrics'), espalier.or_empty(r -> 'server_metrics'), (r ->> 'seconds')::double precision,
    (r ->> 'aggregate_s')::double precision, (r ->> 'bytes_down')::bigint, (r ->> 'bytes_up')::bigint, r -> 'commit', p_at, p_at)
  on conflict (run_id, round) do update
    set status = 'closed', attempt = excluded.attempt, expected = coalesce(excluded.expected, o.expected), counted = excluded.counted,
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

create or replace function espalier.apply_run_closed(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_run public.federated_runs;
  v_attempt public.run_attempts;
begin
  if not coalesce(espalier.has_ended(r ->> 'status'), false) then
    perform espalier.refuse('ES006', 'Its status is no end of a run.');
  end if;
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
    when 'round.opened' then perform espalier.apply_round_opened(p_run, r, v_at);
    when 'update' then perform espalier.apply_update(p_run, r, v_at);
    when 'round.closed' then perform espalier.apply_round_closed(p_run, r, v_at);
    when 'artifact' then perform espalier.apply_artifact(p_run, r, v_at);
    when 'run.paused' then perform espalier.apply_pause(p_run, r, v_at);
    when 'run.resumed' then perform espalier.apply_pause(p_run, r, v_at);
    when 'run.closed' then perform espalier.apply_run_closed(p_run, r, v_at);
    else perform espalier.refuse('ES006', 'Its kind is unknown.');
  end case;
end
$$;

create or replace function espalier.apply_records(
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
          espalier.known(v_record -> 'kind', array['run.opened', 'round.opened', 'update', 'round.closed', 'artifact', 'run.paused',
            'run.resumed', 'run.closed']) end),
        now(), v_seq, p_run.id || ':refused:' || coalesce(v_seq::text, md5(v_record::text)));
    end if;
    o_seq := coalesce(v_seq, o_seq);
  end loop;
end
$$;

create function espalier.lines_of_no_run() returns integer
language sql immutable set search_path = '' as $$
  -- For each node: of a SuperNode, and of ClientApps whose run is not adopted yet.
  select 10000
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

create or replace function espalier.report_session(p_node public.nodes, d jsonb) returns void
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

create or replace function espalier.report_inventory(p_node public.nodes, d jsonb) returns void
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

create or replace function espalier.report_clientapp(p_node public.nodes, d jsonb) returns void
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

create or replace function espalier.apply_report(p_node public.nodes, p_line jsonb, p_log_lines_per_run integer) returns jsonb
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

create or replace function espalier.apply_reports(
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

create or replace function public.accept_reports(p_node_id uuid, p_spool_id text, p_lines jsonb, p_log_lines_per_run integer) returns jsonb
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

create function espalier.prune_log_lines(p_project_id uuid, p_before timestamptz, p_at_most integer) returns integer
language plpgsql set search_path = '' as $$
-- Lines of runs that have ended. Each run is read from its oldest line on, by its index: a statement over all old lines would read the whole table for each batch.
declare
  v_run_id uuid;
  v_gone integer := 0;
  v_some integer;
begin
  for v_run_id in
    select r.id from public.federated_runs r
    -- Nearly all old runs have no lines any more: 5000 of those cost 350 ms a batch without this look into the index.
    cross join lateral (select from public.log_lines l where l.run_id = r.id limit 1) has_lines
    where r.project_id = p_project_id and r.ended_at is not null and r.created_at < p_before
  loop
    delete from public.log_lines where ctid = any (array(
      select o.ctid from (
        select l.ctid, l.received_at from public.log_lines l
        where l.run_id = v_run_id
        order by l.key limit p_at_most - v_gone for update skip locked) o
      where o.received_at < p_before));
    get diagnostics v_some = row_count;
    v_gone := v_gone + v_some;
    exit when v_gone >= p_at_most;
  end loop;
  return v_gone;
end
$$;

create function espalier.prune_stray_lines(p_project_id uuid, p_before timestamptz, p_at_most integer) returns integer
language plpgsql set search_path = '' as $$
-- Lines of no run: of a Flower run that was never adopted, at this project's nodes, and those that are nobody's. A node has so few
-- (espalier.lines_of_no_run) that they are looked through by their age, and none is locked that is kept: it may be adopted meanwhile.
declare
  v_gone integer;
begin
  delete from public.log_lines where ctid = any (array(
    select l.ctid from public.log_lines l
    where l.run_id is null and l.received_at < p_before
      and (l.node_id is null or l.node_id in (select n.id from public.nodes n where n.project_id = p_project_id))
    order by l.key limit p_at_most for update skip locked));
  get diagnostics v_gone = row_count;
  return v_gone;
end
$$;

create function espalier.prune_events(p_project_id uuid, p_before timestamptz, p_at_most integer) returns integer
language plpgsql set search_path = '' as $$
-- Events of no run: nodes that came, went or were warned of.
declare
  v_gone integer;
begin
  delete from public.events where ctid = any (array(
    select o.ctid from (
      select e.ctid, e.at from public.events e
      where e.run_id is null and e.project_id = p_project_id order by e.key limit p_at_most for update skip locked) o
    where o.at < p_before));
  get diagnostics v_gone = row_count;
  return v_gone;
end
$$;

create function espalier.prune_sessions(p_project_id uuid, p_before timestamptz, p_at_most integer) returns integer
language plpgsql set search_path = '' as $$
-- Sessions that have ended, but a node's newest of each kind: it says how the node is, and whether the SuperLink was insecure.
declare
  v_gone integer;
begin
  delete from public.node_sessions where ctid = any (array(
    select s.ctid from public.node_sessions s join public.nodes n on n.id = s.node_id
    where n.project_id = p_project_id and s.ended_at < p_before and exists (
      select from public.node_sessions later where later.node_id = s.node_id and later.kind = s.kind and later.key > s.key)
    limit p_at_most for update of s skip locked));
  get diagnostics v_gone = row_count;
  return v_gone;
end
$$;

create function espalier.prune_invitations(p_project_id uuid, p_before timestamptz, p_at_most integer) returns integer
language plpgsql set search_path = '' as $$
-- Invitations that are used or expired; the audit log knows who made them.
declare
  v_gone integer;
begin
  delete from public.invitations where ctid = any (array(
    select i.ctid from public.invitations i
    where i.project_id = p_project_id and coalesce(i.used_at, i.expires_at) < p_before limit p_at_most for update skip locked));
  get diagnostics v_gone = row_count;
  return v_gone;
end
$$;

create function public.prune(p_project_id uuid, p_days double precision, p_at_most integer) returns jsonb
language plpgsql set search_path = '' as $$
-- Delete one batch of what is older than so many days, and say how many rows it was; fewer than p_at_most: nothing is left.
declare
  v_before timestamptz := now() - make_interval(secs => p_days * 86400);
  v_gone integer := espalier.prune_log_lines(p_project_id, v_before, p_at_most);
begin
  if v_gone < p_at_most then
    v_gone := v_gone + espalier.prune_stray_lines(p_project_id, v_before, p_at_most - v_gone);
  end if;
  if v_gone < p_at_most then
    v_gone := v_gone + espalier.prune_events(p_project_id, v_before, p_at_most - v_gone);
  end if;
  if v_gone < p_at_most then
    v_gone := v_gone + espalier.prune_sessions(p_project_id, v_before, p_at_most - v_gone);
  end if;
  if v_gone < p_at_most then
    v_gone := v_gone + espalier.prune_invitations(p_project_id, v_before, p_at_most - v_gone);
  end if;
  return to_jsonb(v_gone);
end
$$;

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
    ('artifacts', 'table', true, true), ('models', 'table', true, true), ('events', 'table', true, true),
    ('log_lines', 'table', true, false), ('log_tails', 'table', false, false),
    ('project_list', 'view', true, false), ('node_list', 'view', true, false), ('session_list', 'view', true, false),
    ('run_list', 'view', true, false), ('attempt_list', 'view', true, false), ('round_list', 'view', true, false),
    ('update_list', 'view', true, false), ('metric_list', 'view', true, false), ('event_list', 'view', true, false),
    ('log_list', 'view', true, false), ('artifact_list', 'view', true, false), ('model_list', 'view', true, false),
    ('audit_list', 'view', true, false), ('invitation_list', 'view', true, false), ('run_overview', 'view', true, false),
    ('round_table', 'view', true, false), ('node_overview', 'view', true, false), ('run_timeline', 'view', true, false),
    ('run_size', 'view', true, false)
$$;

create function espalier.functions() returns setof regprocedure
language sql stable set search_path = '' as $$
  -- All helpers, and of schema public, where a Supabase project has others too, ours.
  select p.oid::regprocedure from pg_catalog.pg_proc p
  where p.pronamespace = 'espalier'::regnamespace or (p.pronamespace = 'public'::regnamespace and p.proname in (
    'schema_version', 'open_project', 'hold_lease', 'release_lease', 'add_token', 'find_token', 'revoke_tokens', 'audit',
    'create_invitation', 'check_invitation', 'redeem_invitation', 'remove_node', 'beat', 'mark_lost_nodes', 'open_session', 'move_session',
    'begin_run', 'begin_attempt', 'adopt_run', 'move_run', 'note_attempt', 'apply_journal', 'forget_projection',
    'append_log_lines', 'tail_offset', 'prune', 'accept_reports'))
$$;

-- Log lines go in by one statement, and the answer no longer carries them.

drop function espalier.log_line(jsonb);
drop function espalier.add_log_lines(uuid, uuid, text, text, text, text, jsonb, integer);

create function espalier.log_level(p_level text) returns text
language plpgsql immutable set search_path = '' as $$
-- Any word for a level; what nobody knows is info.
declare
  v_level text := lower(p_level);
begin
  return case when v_level in ('debug', 'info', 'warning', 'error', 'critical') then v_level
    when v_level = 'warn' then 'warning' when v_level = 'fatal' then 'critical' else 'info' end;
end
$$;

create function espalier.is_plain_time(p_value text) returns boolean
language sql immutable as $$
  -- Can it be cast without a doubt? No search_path is set, so that this is inlined where it is asked a thousand times a statement.
  select p_value operator(pg_catalog.~)
    '^[1-8]\d{3}-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-](0\d|1[0-2]):[0-5]\d)$'
$$;

create or replace function espalier.as_time(p_value text) returns timestamptz
language plpgsql stable set search_path = '' as $$
-- A time that somebody else wrote, null if it is none; without an offset it is UTC.
begin
  -- An exception block is a subtransaction (10 microseconds).
  if espalier.is_plain_time(p_value) then
    return p_value::timestamptz;
  end if;
  return espalier.in_calendar(espalier.as_odd_time(p_value));
end
$$;

create function espalier.add_log_lines(
  p_run_id uuid, p_node_id uuid, p_flower_run_id text, p_stream text, p_source text, p_message_id text, p_lines jsonb, p_log_lines_per_run integer
) returns bigint
language plpgsql set search_path = '' as $$
-- Add lines, and give the run's last key before them. Lines are read as leniently as logs have to be: no time is now, 16,384
-- characters are enough. The run's counting row is locked first: keys of a run grow in the order of commit. One statement for all
-- lines that calls next to nothing for each: a function a line and the rows as an answer took twice as long.
declare
  v_room bigint;
  v_last bigint;
  v_limit integer := p_log_lines_per_run;
  v_count integer := jsonb_array_length(p_lines);
begin
  if v_count = 0 then
    return null;
  end if;
  insert into public.log_tails as t (run_id, stream, lines) values (p_run_id, '', v_count)
  on conflict (run_id, stream) do update set lines = t.lines + excluded.lines
  returning case when p_run_id is null then v_count else p_log_lines_per_run - (t.lines - v_count) end into v_room;
  if p_run_id is null and p_node_id is not null then
    -- Of what a site says of no run, or of one that it made up, so many lines are kept at a time; they go by their age.
    v_limit := espalier.lines_of_no_run();
    v_room := v_limit - (select count(*) from (
      select from public.log_lines l where l.run_id is null and l.node_id = p_node_id limit v_limit + 1) kept);
  end if;
  v_last := coalesce((select max(key) from public.log_lines where run_id = p_run_id), 0);
  insert into public.log_lines (run_id, node_id, flower_run_id, stream, source, level, text, message_id, at)
  select p_run_id, coalesce(p_node_id, n.id), p_flower_run_id, p_stream, coalesce(p_source, g.line ->> 'source'),
    case when g.line ->> 'level' in ('debug', 'info', 'warning', 'error', 'critical') then g.line ->> 'level'
      else espalier.log_level(g.line ->> 'level') end,
    left(coalesce(g.line ->> 'text', g.line #>> '{}', ''), 16384), p_message_id,
    case when espalier.is_plain_time(g.line ->> 'at') then (g.line ->> 'at')::timestamptz
      else coalesce(espalier.as_time(g.line ->> 'at'), now()) end
  from jsonb_array_elements(p_lines) with ordinality as g (line, place)
  left join public.nodes n on p_node_id is null and n.id::text = g.line ->> 'node_id'
  where g.place <= v_room
  order by g.place;
  if v_room >= 0 and v_room < v_count then
    insert into public.log_lines (run_id, node_id, flower_run_id, stream, source, level, text, at)
    values (p_run_id, p_node_id, p_flower_run_id, p_stream, coalesce(p_source, 'serverapp'), 'warning',
      format(case when p_run_id is null then '%s lines of no run are stored: further ones of this node are at the site alone.'
        else '%s lines of this run are stored: further ones are in the files alone.' end, v_limit), now());
  end if;
  return v_last;
end
$$;

create or replace function espalier.add_attempt(p_run_id uuid, p_flower_run_id text, p_series_id text) returns void
language plpgsql set search_path = '' as $$
-- Add an attempt to a run whose project is locked; one that is there already stays as it is.
declare
  v_run public.federated_runs;
begin
  select * into v_run from public.federated_runs where id = p_run_id for no key update;
  insert into public.run_attempts (run_id, attempt, flower_run_id, series_id, status, ended_at)
  select p_run_id, 1 + coalesce((espalier.newest_attempt(p_run_id)).attempt, 0), p_flower_run_id, p_series_id,
    case when espalier.has_ended(v_run.status) then v_run.status else 'starting' end,
    case when espalier.has_ended(v_run.status) then now() end
  on conflict (flower_run_id) do nothing;
  if not found then
    return;
  end if;
  update public.run_attempts set status = 'lost', ended_at = now()
  where run_id = p_run_id and flower_run_id <> p_flower_run_id and status in ('starting', 'running');
  update public.federated_runs
  set series_id = coalesce(p_series_id, series_id),
      status = case when status = any (espalier.allowed_from('run', 'starting')) then 'starting' else status end
  where id = p_run_id;
  -- Lines that came before their run get keys of now: who follows the run has seen all keys up to the last one.
  insert into public.log_tails as t (run_id, stream) values (p_run_id, '') on conflict (run_id, stream) do update set lines = t.lines;
  with early as (
    delete from public.log_lines where run_id is null and flower_run_id = p_flower_run_id returning *
  ), added as (
    insert into public.log_lines (run_id, node_id, flower_run_id, stream, source, level, text, message_id, at, received_at)
    select p_run_id, e.node_id, e.flower_run_id, e.stream, e.source, e.level, e.text, e.message_id, e.at, e.received_at
    from early e order by e.key
    returning 1
  )
  update public.log_tails set lines = lines + (select count(*) from added) where run_id = p_run_id and stream = '';
end
$$;

create or replace function public.append_log_lines(
  p_run_id uuid, p_stream text, p_start bigint, p_end bigint, p_lines jsonb, p_log_lines_per_run integer
) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_offset bigint;
begin
  if p_stream = '' or p_end < p_start then
    perform espalier.refuse('ES006', 'A stream has a name, and its end is not before its start.');
  end if;
  -- An upsert that changes nothing: it makes the row, locks it, and finds it by its index also where run_id is null.
  insert into public.log_tails as t (run_id, stream) values (p_run_id, p_stream)
  on conflict (run_id, stream) do update set lines = t.lines
  returning end_offset into v_offset;
  if v_offset <> p_start then
    return jsonb_build_object('applied', false, 'offset', v_offset);
  end if;
  perform espalier.add_log_lines(p_run_id, null, null, p_stream, null, null, p_lines, p_log_lines_per_run);
  insert into public.log_tails as t (run_id, stream) values (p_run_id, p_stream)
  on conflict (run_id, stream) do update set end_offset = p_end, lines = t.lines + jsonb_array_length(p_lines);
  return jsonb_build_object('applied', true, 'offset', p_end);
end
$$;

create or replace function espalier.report_log(p_node public.nodes, d jsonb, p_log_lines_per_run integer) returns jsonb
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


create or replace function espalier.set_rights() returns void
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

-- What events that participants read have told of other sites until now: Postgres' own words, which may repeat what was sent, kinds
-- that are none of ours, and names.
update public.events set data = (data - 'kind') || '{"why": "It was refused by an earlier version."}'
where name = 'fl.client.warned' and data ->> 'what' in ('journal.refused', 'report.refused');
update public.events set data = jsonb_set(data, '{type}', coalesce(to_jsonb(espalier.kind_of_error(data)), 'null'))
where name = 'fl.client.warned' and data ->> 'what' like 'update.%' and data ? 'type';
update public.events set data = data - 'nodes', dedupe_key = null where name = 'fl.client.warned' and data ->> 'what' = 'dataset.duplicate';
update public.events
set data = data || jsonb_build_object('cause', jsonb_build_object(
  'node_id', espalier.as_flower_id(data #>> '{cause,node_id}'), 'type', espalier.kind_of_error(data -> 'cause')))
where name = 'fl.federation.failed' and data ? 'cause';

select espalier.set_rights();
