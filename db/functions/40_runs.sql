-- Runs and their attempts.

create function espalier.run_row(p_run_id uuid, p_mark bigint) returns jsonb
language sql stable set search_path = '' as $$
  -- A run as run_list has it, with the events of this transaction.
  select to_jsonb(r) || jsonb_build_object('events', espalier.events_since(r.project_id, p_mark))
  from public.run_list r where r.id = p_run_id
$$;

create function espalier.project_of_run(p_run_id uuid) returns uuid
language plpgsql stable set search_path = '' as $$
declare
  v_project_id uuid;
begin
  select project_id into v_project_id from public.federated_runs where id = p_run_id;
  if not found then
    perform espalier.refuse('ES005', format('There is no run %s.', p_run_id));
  end if;
  return v_project_id;
end
$$;

create function espalier.newest_attempt(p_run_id uuid) returns public.run_attempts
language sql stable set search_path = '' as $$
  select * from public.run_attempts where run_id = p_run_id order by attempt desc limit 1
$$;

create function espalier.emit_once_an_attempt(
  p_run public.federated_runs, p_name text, p_flower_run_id text, p_data jsonb, p_at timestamptz, p_journal_seq bigint
) returns void
language sql set search_path = '' as $$
  -- The server and the journal may both say that an attempt started or ended; whoever is first is heard.
  select espalier.emit(p_run.project_id, p_name, p_run.id, null, null, jsonb_build_object('attempt', p_flower_run_id) || p_data,
    p_at, p_journal_seq, p_run.id::text || ':' || p_name || ':' || coalesce(p_flower_run_id, ''))
$$;

create function espalier.start_run(p_run public.federated_runs, p_flower_run_id text, p_at timestamptz, p_journal_seq bigint) returns void
language plpgsql set search_path = '' as $$
begin
  update public.federated_runs set started_at = coalesce(started_at, p_at) where id = p_run.id;
  update public.run_attempts set status = 'running', started_at = coalesce(started_at, p_at)
  where run_id = p_run.id and flower_run_id = p_flower_run_id and status = 'starting';
  perform espalier.emit_once_an_attempt(p_run, 'fl.federation.started', p_flower_run_id, '{}', p_at, p_journal_seq);
end
$$;

create function espalier.emit_end(
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

create function espalier.node_of(p_project_id uuid, p_flower_node_id text) returns uuid
language plpgsql stable set search_path = '' as $$
-- A removed node's Flower id is found only where no node of today has it.
declare
  v_id uuid;
begin
  select id into v_id from public.nodes where project_id = p_project_id and flower_node_id = p_flower_node_id and status <> 'removed';
  if not found then
    select id into v_id from public.nodes where project_id = p_project_id and flower_node_id = p_flower_node_id order by key desc limit 1;
  end if;
  return v_id;
end
$$;

create function espalier.put_cause(p_run public.federated_runs, p_cause jsonb) returns void
language sql set search_path = '' as $$
  insert into public.run_causes (run_id, node_id, cause)
  select p_run.id, espalier.node_of(p_run.project_id, p_cause ->> 'node_id'), p_cause where p_cause is not null
  on conflict (run_id) do update set node_id = excluded.node_id, cause = excluded.cause, created_at = now()
$$;

create function espalier.end_run(
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

create function espalier.fail_open_rounds(p_run_id uuid) returns void
language sql set search_path = '' as $$
  update public.rounds o set status = 'failed', closed_at = r.ended_at
  from public.federated_runs r
  where r.id = p_run_id and r.status in ('completed', 'failed', 'stopped') and o.run_id = r.id and o.status = 'open'
$$;

create function espalier.active_by_rest(p_project_id uuid) returns uuid
language sql stable set search_path = '' as $$
  select id from public.federated_runs where project_id = p_project_id and origin = 'rest' and not espalier.has_ended(status)
$$;

create function espalier.reopen_run(p_run public.federated_runs, p_newest public.run_attempts) returns void
language plpgsql set search_path = '' as $$
-- A run that had ended goes on: its next attempt is to come.
begin
  update public.federated_runs set ended_at = null where id = p_run.id;
  delete from public.run_causes where run_id = p_run.id;
  update public.run_attempts set is_reopened = true where key = p_newest.key;
  perform espalier.emit(p_run.project_id, 'fl.federation.resumed', p_run.id, null, null,
    jsonb_build_object('attempt', p_newest.flower_run_id));
end
$$;

create function public.begin_run(
  p_project_id uuid, p_app text, p_fab_hash text, p_config jsonb, p_label text, p_origin text
) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_run_id uuid;
  v_mark bigint;
begin
  perform espalier.lock_project(p_project_id);
  v_mark := espalier.last_event(p_project_id);
  begin
    insert into public.federated_runs (project_id, app, fab_hash, config, label, origin)
    values (p_project_id, p_app, p_fab_hash, p_config, p_label, p_origin)
    returning id into v_run_id;
  exception when unique_violation then
    perform espalier.refuse('ES001', 'A run that was started by REST is still active.', espalier.active_by_rest(p_project_id)::text);
  end;
  perform espalier.emit(p_project_id, 'fl.federation.created', v_run_id, null, null,
    jsonb_build_object('app', p_app, 'label', p_label, 'origin', p_origin));
  return espalier.run_row(v_run_id, v_mark);
end
$$;

create function espalier.add_attempt(p_run_id uuid, p_flower_run_id text, p_series_id text) returns void
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
      status = case when status = 'pending' then 'starting' else status end
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

create function public.begin_attempt(p_run_id uuid, p_flower_run_id text, p_series_id text) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_project_id uuid := espalier.project_of_run(p_run_id);
  v_row jsonb;
begin
  perform espalier.lock_project(v_project_id);
  perform espalier.add_attempt(p_run_id, p_flower_run_id, p_series_id);
  select to_jsonb(a) || jsonb_build_object('run_status', r.status) into v_row
  from public.attempt_list a join public.federated_runs r on r.id = a.run_id
  where a.flower_run_id = p_flower_run_id and a.run_id = p_run_id;
  if v_row is null then
    perform espalier.refuse('ES004', format('The Flower run %s belongs to another run.', p_flower_run_id));
  end if;
  return v_row;
end
$$;

create function public.adopt_run(
  p_project_id uuid, p_flower_run_id text, p_series_id text, p_app text, p_fab_hash text, p_config jsonb
) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_run_id uuid;
  v_adopted text;
  v_named text := nullif(p_config ->> 'current-run-id', '');
  v_mark bigint;
begin
  perform espalier.lock_project(p_project_id);
  v_mark := espalier.last_event(p_project_id);
  select a.run_id, 'attempt' into v_run_id, v_adopted from public.run_attempts a where a.flower_run_id = p_flower_run_id;
  if v_run_id is null then
    select r.id, 'series' into v_run_id, v_adopted
    from public.federated_runs r where r.project_id = p_project_id and r.series_id = p_series_id;
  end if;
  if v_run_id is null then
    -- Our own StartRun names its intent in current-run-id; without the name, the FAB has to do.
    select r.id, 'intent' into v_run_id, v_adopted
    from public.federated_runs r
    where r.project_id = p_project_id and r.origin = 'rest' and not espalier.has_ended(r.status)
      and (espalier.newest_attempt(r.id)).run_id is null
      and case when v_named is null then r.fab_hash = p_fab_hash else r.id::text = v_named end
    order by r.key limit 1;
  end if;
  if v_run_id is null then
    insert into public.federated_runs (project_id, app, fab_hash, config, origin)
    values (p_project_id, p_app, p_fab_hash, p_config, 'shell')
    returning id, 'new' into v_run_id, v_adopted;
    perform espalier.emit(p_project_id, 'fl.federation.created', v_run_id, null, null,
      jsonb_build_object('app', p_app, 'label', null, 'origin', 'shell'));
  end if;
  if v_adopted <> 'attempt' then
    perform espalier.add_attempt(v_run_id, p_flower_run_id, p_series_id);
  end if;
  return espalier.run_row(v_run_id, v_mark) || jsonb_build_object('adopted', v_adopted);
end
$$;

create function public.move_run(p_run_id uuid, p_status text, p_cause jsonb, p_expected jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_project_id uuid := espalier.project_of_run(p_run_id);
  v_run public.federated_runs;
  v_before text;
  v_attempt public.run_attempts;
  v_mark bigint;
begin
  if espalier.allowed_from('run', p_status) = '{}' then
    perform espalier.refuse('ES006', format('No run becomes %s.', p_status));
  end if;
  perform espalier.lock_project(v_project_id);
  v_mark := espalier.last_event(v_project_id);
  select status into v_before from public.federated_runs where id = p_run_id for no key update;
  begin
    update public.federated_runs set status = p_status
    where id = p_run_id and status = any (espalier.allowed_from('run', p_status))
      and (p_expected is null or jsonb_typeof(p_expected) = 'null' or p_expected ? status)
    returning * into v_run;
  exception when unique_violation then
    perform espalier.refuse('ES001', 'A run that was started by REST is still active.', espalier.active_by_rest(v_project_id)::text);
  end;
  if v_run.id is null then
    return null;
  end if;
  v_attempt := espalier.newest_attempt(p_run_id);
  if espalier.has_ended(v_before) then
    perform espalier.reopen_run(v_run, v_attempt);
  elsif p_status = 'running' and v_before = 'paused' then
    perform espalier.emit(v_project_id, 'fl.federation.resumed', p_run_id);
  elsif p_status = 'running' then
    perform espalier.start_run(v_run, v_attempt.flower_run_id, now(), null);
  elsif p_status = 'paused' then
    perform espalier.emit(v_project_id, 'fl.federation.paused', p_run_id);
  elsif espalier.has_ended(p_status) then
    perform espalier.end_run(v_run, p_status, espalier.cause_of(p_cause), v_attempt.flower_run_id, now(), null);
  end if;
  return espalier.run_row(p_run_id, v_mark);
end
$$;

create function public.note_attempt(p_flower_run_id text, p_reason text) returns jsonb
language plpgsql set search_path = '' as $$
begin
  update public.run_attempts set reason = coalesce(reason, p_reason) where flower_run_id = p_flower_run_id;
  if not found then
    perform espalier.refuse('ES005', format('There is no attempt %s.', p_flower_run_id));
  end if;
  return 'null';
end
$$;

create function public.lose_attempt(p_flower_run_id text, p_reason text) returns jsonb
language plpgsql set search_path = '' as $$
-- Write that an attempt is over while its run is not; an attempt that has ended with its run stays as it is.
begin
  perform public.note_attempt(p_flower_run_id, p_reason);
  update public.run_attempts set status = 'lost', ended_at = now()
  where flower_run_id = p_flower_run_id and status in ('starting', 'running');
  return (select to_jsonb(a) from public.attempt_list a where a.flower_run_id = p_flower_run_id);
end
$$;
