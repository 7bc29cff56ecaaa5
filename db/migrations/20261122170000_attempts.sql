-- Attempts that are lost while their run is not, and runs that go on by hand after their end.

create or replace function public.schema_version() returns jsonb
language sql immutable set search_path = '' as $$
  -- The newest migration; each migration replaces this function.
  select to_jsonb('20261122170000'::text)
$$;

alter table public.run_attempts add column is_reopened boolean not null default false;
comment on column public.run_attempts.is_reopened is 'Somebody had the run go on after this attempt had ended it.';
comment on column public.run_attempts.status is '
  starting ──▶ running ──▶ completed | failed | stopped, as the run ends
     └────────────┴──its ServerApp or its Flower run is gone, its run is not; or a later attempt begins──▶ lost
  A run that has not ended and whose newest attempt is over waits for the next one.';
comment on column public.federated_runs.status is '
  pending ──begin_attempt──▶ starting ──▶ running ◀──▶ paused
     │                          │            │           │
     │                          └────────────┴───────────┴──stop asked──▶ stopping
     └──▶ stopping | failed | stopped        any but pending ──▶ completed | failed | stopped
                                             failed | stopped ──resumed by hand──▶ starting
  The journal''s end line decides over an end that the server concluded before it was read.';

create or replace view public.attempt_list with (security_invoker = true) as
select a.key, r.project_id, a.run_id, a.attempt, a.flower_run_id, a.series_id, a.status, a.reason, a.created_at, a.started_at, a.ended_at,
  a.is_reopened
from public.run_attempts a join public.federated_runs r on r.id = a.run_id;

create or replace function espalier.allowed_from(p_machine text, p_target text) returns text[]
language sql immutable set search_path = '' as $$
  -- The transition tables: the diagrams in the comments of the status columns, as data.
  select coalesce(array_agg(t.source), '{}') from (values
    ('run', 'pending', 'starting'), ('run', 'pending', 'stopping'), ('run', 'pending', 'failed'), ('run', 'pending', 'stopped'),
    ('run', 'starting', 'running'), ('run', 'starting', 'stopping'),
    ('run', 'starting', 'completed'), ('run', 'starting', 'failed'), ('run', 'starting', 'stopped'),
    ('run', 'running', 'paused'), ('run', 'running', 'stopping'),
    ('run', 'running', 'completed'), ('run', 'running', 'failed'), ('run', 'running', 'stopped'),
    ('run', 'paused', 'running'), ('run', 'paused', 'stopping'),
    ('run', 'paused', 'completed'), ('run', 'paused', 'failed'), ('run', 'paused', 'stopped'),
    ('run', 'stopping', 'completed'), ('run', 'stopping', 'failed'), ('run', 'stopping', 'stopped'),
    ('run', 'failed', 'starting'), ('run', 'stopped', 'starting'),
    ('session', 'starting', 'running'), ('session', 'starting', 'stopping'), ('session', 'starting', 'stopped'),
    ('session', 'starting', 'exited'), ('session', 'starting', 'failed'), ('session', 'starting', 'lost'),
    ('session', 'running', 'stopping'), ('session', 'running', 'stopped'), ('session', 'running', 'exited'),
    ('session', 'running', 'failed'), ('session', 'running', 'lost'),
    ('session', 'stopping', 'stopped'), ('session', 'stopping', 'exited'), ('session', 'stopping', 'failed'),
    ('session', 'stopping', 'lost'),
    ('node', 'enrolled', 'online'), ('node', 'enrolled', 'offline'), ('node', 'enrolled', 'removed'),
    ('node', 'online', 'offline'), ('node', 'online', 'lost'), ('node', 'online', 'removed'),
    ('node', 'offline', 'online'), ('node', 'offline', 'lost'), ('node', 'offline', 'removed'),
    ('node', 'lost', 'online'), ('node', 'lost', 'offline'), ('node', 'lost', 'removed'),
    ('node', 'removed', 'enrolled')
  ) as t (machine, source, target)
  where t.machine = p_machine and t.target = p_target
$$;

create or replace function espalier.active_by_rest(p_project_id uuid) returns uuid
language sql stable set search_path = '' as $$
  select id from public.federated_runs where project_id = p_project_id and origin = 'rest' and not espalier.has_ended(status)
$$;

create or replace function espalier.reopen_run(p_run public.federated_runs, p_newest public.run_attempts) returns void
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

create or replace function public.begin_run(
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

create or replace function public.move_run(p_run_id uuid, p_status text, p_cause jsonb, p_expected jsonb) returns jsonb
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
          espalier.known(v_record -> 'kind', array['run.opened', 'round.waiting', 'round.opened', 'update', 'round.closed', 'round.scored',
            'artifact', 'artifact.removed', 'run.paused', 'run.resumed', 'run.closed']) end),
        now(), v_seq, p_run.id || ':refused:' || coalesce(v_seq::text, md5(v_record::text)));
    end if;
    o_seq := coalesce(v_seq, o_seq);
  end loop;
end
$$;

create or replace function espalier.functions() returns setof regprocedure
language sql stable set search_path = '' as $$
  -- All helpers, and of schema public, where a Supabase project has others too, ours.
  select p.oid::regprocedure from pg_catalog.pg_proc p
  where p.pronamespace = 'espalier'::regnamespace or (p.pronamespace = 'public'::regnamespace and p.proname in (
    'schema_version', 'open_project', 'hold_lease', 'release_lease', 'add_token', 'find_token', 'revoke_tokens', 'audit',
    'create_invitation', 'check_invitation', 'redeem_invitation', 'remove_node', 'beat', 'mark_lost_nodes', 'open_session', 'move_session',
    'begin_run', 'begin_attempt', 'adopt_run', 'move_run', 'note_attempt', 'lose_attempt', 'apply_journal', 'forget_projection',
    'append_log_lines', 'tail_offset', 'prune', 'accept_reports', 'add_model', 'promote_model', 'note_artifact'))
$$;

select espalier.set_rights();
