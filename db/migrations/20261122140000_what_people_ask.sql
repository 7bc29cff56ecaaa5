-- Views named after what people ask, how many rows a run has, log lines pruned in batches, and one list of who reads what.

create or replace function public.schema_version() returns jsonb
language sql immutable set search_path = '' as $$
  -- The newest migration; each migration replaces this function.
  select to_jsonb('20261122140000'::text)
$$;

-- For who pages through run_list or run_overview without naming a project, as a participant's page does: 128 ms became 11.
create index federated_runs_newest_of_all on public.federated_runs ((-key));

-- The four questions of a page, each one view: how do the runs stand, how did a run's rounds go, how are the nodes, what
-- happened when. Readers are held by row security, so these call no function of schema espalier, which readers may not.

create view public.run_overview with (security_invoker = true) as
select r.key, r.id, r.project_id, p.slug as project, r.label, r.app, r.opened ->> 'workload' as workload,
  r.opened ->> 'strategy' as strategy, r.status, coalesce(r.reason, r.cause ->> 'type') as reason, r.rounds_done, r.num_rounds,
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
) s on true;
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

create function public.prune_log_lines(p_project_id uuid, p_days double precision, p_at_most integer) returns jsonb
language plpgsql set search_path = '' as $$
-- Delete one batch and say how many lines it was; fewer than p_at_most: nothing is left to delete. Lines of no run (a SuperLink's,
-- or of a Flower run that was never adopted) go by their age alone. A run is read from its oldest line on, by its index: a
-- statement over all old lines would read the whole table again for each batch.
declare
  v_before timestamptz := now() - make_interval(secs => p_days * 86400);
  v_run_id uuid;
  v_gone integer := 0;
  v_some integer;
begin
  for v_run_id in
    select r.id from public.federated_runs r where r.project_id = p_project_id and r.ended_at is not null
    union all select null
  loop
    delete from public.log_lines where ctid = any (array(
      select l.ctid from public.log_lines l
      where (l.run_id = v_run_id or (v_run_id is null and l.run_id is null)) and l.received_at < v_before
      order by l.key limit p_at_most - v_gone for update skip locked));
    get diagnostics v_some = row_count;
    v_gone := v_gone + v_some;
    exit when v_gone >= p_at_most;
  end loop;
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
    ('federated_runs', 'table', true, true), ('run_causes', 'table', true, false), ('run_attempts', 'table', true, true),
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
    'append_log_lines', 'tail_offset', 'prune_log_lines', 'accept_reports'))
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
  v_count integer := jsonb_array_length(p_lines);
begin
  if v_count = 0 then
    return null;
  end if;
  insert into public.log_tails as t (run_id, stream, lines) values (p_run_id, '', v_count)
  on conflict (run_id, stream) do update set lines = t.lines + excluded.lines
  returning case when p_run_id is null then v_count else p_log_lines_per_run - (t.lines - v_count) end into v_room;
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
      format('%s lines of this run are stored: further ones are in the files alone.', p_log_lines_per_run), now());
  end if;
  return v_last;
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

select espalier.set_rights();
