-- Models: versions of a project with their lineage, promotions, copies of artifacts in a store, and what retention removes.

create or replace function public.schema_version() returns jsonb
language sql immutable set search_path = '' as $$
  -- The newest migration; each migration replaces this function.
  select to_jsonb('20261122150000'::text)
$$;

alter table public.artifacts
  add column score jsonb constraint artifacts_score_is_object check (jsonb_typeof(score) = 'object'),
  add column removed_at timestamptz,
  add column stored_uri text,
  add column stored_at timestamptz,
  add column to_do text generated always as (case
    when removed_at is null and stored_at is null then 'store' when removed_at is not null and stored_uri is not null then 'remove' end) stored;
create index artifacts_to_do on public.artifacts (project_id, (-key)) where to_do is not null;
comment on column public.artifacts.score is 'Of role best: {metric, value, by}; by is server or clients.';
comment on column public.artifacts.removed_at is 'When the run''s retention let it go.';
comment on column public.artifacts.stored_uri is 'Where its copy in an artifact store is, or may be as long as stored_at is null; written before the upload begins.';
comment on column public.artifacts.to_do is 'What a server with an artifact store has to do about the copy: store or remove it.';

-- No function has written a model so far. One that somebody wrote by hand keeps to the file of its run.
drop view public.model_list;
alter table public.models
  add column uri text,
  add column sha256 text constraint models_sha256_is_hex check (sha256 ~ '^[0-9a-f]{64}$'),
  add column size_bytes bigint constraint models_size_is_positive check (size_bytes >= 0),
  add column run_id uuid references public.federated_runs on delete cascade,
  add column attempt public.flower_id,
  add column round integer,
  add column parent_version integer,
  add column facts jsonb not null default '{}' constraint models_facts_is_object check (jsonb_typeof(facts) = 'object'),
  add constraint models_version_counts_from_1 check (version >= 1),
  add foreign key (project_id, parent_version) references public.models (project_id, version);
update public.models m
set uri = 'runs/' || coalesce(r.series_id, '') || '/' || f.uri, sha256 = f.sha256, size_bytes = f.size_bytes, run_id = f.run_id,
    round = f.round, facts = jsonb_build_object('app', r.app, 'fab_hash', r.fab_hash, 'name', f.name, 'role', f.role, 'format', f.format)
from public.artifacts f join public.federated_runs r on r.id = f.run_id where f.id = m.artifact_id;
alter table public.models
  alter column uri set not null, alter column sha256 set not null, alter column size_bytes set not null, alter column run_id set not null;
create index models_run_id on public.models (run_id);
create index models_parent on public.models (project_id, parent_version);
comment on column public.models.uri is 'The model''s own copy, which no run''s retention knows of: s3://…, or a path below ESPALIER_HOME.';
comment on column public.models.attempt is 'The Flower run that closed the model''s round.';
comment on column public.models.parent_version is 'The version that its run started from; null: from the app''s initial model.';
comment on column public.models.facts is 'As of the promotion: app, fab_hash, config, workload and strategy of the run; name, role, score, format and parents of the artifact.';

create table public.model_sources (
  model_id uuid not null references public.models on delete cascade,
  key bigint generated always as identity unique,
  project_id uuid not null references public.projects on delete cascade,
  node_id uuid references public.nodes on delete set null,
  flower_node_id public.flower_id not null,
  updates integer not null,
  first_round integer not null,
  last_round integer not null,
  num_examples bigint,
  round_examples bigint,
  datasets jsonb not null default '[]' constraint model_sources_datasets_is_array check (jsonb_typeof(datasets) = 'array'),
  primary key (model_id, flower_node_id)
);
create index model_sources_node_id on public.model_sources (node_id, key);
create index model_sources_project_id on public.model_sources (project_id, key);
comment on table public.model_sources is 'Whose updates count in a model: a row for each node, as of the promotion. For the coordinator and the node itself.';
comment on column public.model_sources.updates is 'How many of its updates were counted, from the run''s first round to the model''s.';
comment on column public.model_sources.num_examples is 'The sum of their examples; an example counts in each round anew.';
comment on column public.model_sources.round_examples is 'Of its update in the model''s own round; null when it had none there.';
comment on column public.model_sources.datasets is 'Ids of the datasets that its inventory named at the promotion.';
alter table public.model_sources enable row level security;

create table public.model_promotions (
  key bigint generated always as identity primary key,
  project_id uuid not null references public.projects on delete cascade,
  model_id uuid not null references public.models on delete cascade,
  from_version integer,
  promoted_at timestamptz not null default now(),
  promoted_by text not null,
  why text
);
create index model_promotions_project_id on public.model_promotions (project_id, (-key));
create index model_promotions_model_id on public.model_promotions (model_id);
comment on table public.model_promotions is 'Each time a version became the latest; the newest row says which is. Going back adds a row and takes none away.';
comment on column public.model_promotions.from_version is 'Which was the latest before.';
alter table public.model_promotions enable row level security;

insert into public.model_promotions (project_id, model_id, promoted_at, promoted_by, why)
select project_id, id, promoted_at, promoted_by, why from public.models order by project_id, version;

create or replace view public.artifact_list with (security_invoker = true) as
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

create or replace function espalier.apply_artifact(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
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

create function espalier.model_row(p_model_id uuid, p_mark bigint) returns jsonb
language sql stable set search_path = '' as $$
  -- A model as model_list has it, with the events of this transaction.
  select to_jsonb(m) || jsonb_build_object('events', espalier.events_since(m.project_id, p_mark))
  from public.model_list m where m.id = p_model_id
$$;

create function espalier.promote(p_model public.models, p_by text, p_why text) returns void
language plpgsql set search_path = '' as $$
-- Make a version the latest and say so. The project is locked, so keys grow in the order of commit: the newest row is the latest.
declare
  v_from integer;
begin
  select version into v_from from public.promotion_list where project_id = p_model.project_id order by key limit 1;
  insert into public.model_promotions (project_id, model_id, from_version, promoted_by, why)
  values (p_model.project_id, p_model.id, v_from, p_by, p_why);
  perform espalier.emit(p_model.project_id, 'fl.artifact.promoted', p_model.run_id, null, p_model.round,
    jsonb_build_object('version', p_model.version, 'from_version', v_from, 'artifact_id', p_model.artifact_id, 'sha256', p_model.sha256,
      'by', p_by, 'why', p_why));
end
$$;

create function espalier.add_sources(p_model public.models) returns void
language sql set search_path = '' as $$
  -- Whose updates count in a model of round n: all that were counted up to n.
  insert into public.model_sources (
    model_id, project_id, node_id, flower_node_id, updates, first_round, last_round, num_examples, round_examples, datasets)
  select p_model.id, p_model.project_id, n.id, u.flower_node_id, u.updates, u.first_round, u.last_round, u.num_examples, u.round_examples,
    coalesce((select jsonb_agg(d -> 'id') from jsonb_array_elements(n.datasets) d where jsonb_typeof(d -> 'id') = 'string'), '[]')
  from (
    select u.flower_node_id, (array_agg(u.node_id order by u.key desc))[1] as node_id, count(*) as updates,
      min(u.counted_in_round) as first_round, max(u.counted_in_round) as last_round, sum(u.num_examples)::bigint as num_examples,
      (sum(u.num_examples) filter (where u.counted_in_round = p_model.round))::bigint as round_examples
    from public.node_updates u
    where u.run_id = p_model.run_id and u.status = 'counted' and u.kind = 'train'
      and u.counted_in_round <= coalesce(p_model.round, u.counted_in_round)
    group by u.flower_node_id
  ) u
  left join public.nodes n on n.id = u.node_id
  order by u.flower_node_id::numeric
$$;

create function public.add_model(
  p_project_id uuid, p_artifact_id uuid, p_sha256 text, p_uri text, p_by text, p_why text
) returns jsonb
language plpgsql set search_path = '' as $$
-- Make a version of an artifact whose bytes, with this sha256, were seen at uri.
declare
  v_artifact public.artifacts;
  v_run public.federated_runs;
  v_model public.models;
  v_mark bigint;
begin
  perform espalier.lock_project(p_project_id);
  v_mark := espalier.last_event(p_project_id);
  select * into v_artifact from public.artifacts where id = p_artifact_id and project_id = p_project_id;
  if not found then
    perform espalier.refuse('ES005', format('There is no artifact %s.', p_artifact_id));
  elsif v_artifact.sha256 <> p_sha256 then
    perform espalier.refuse('ES004', format('Artifact %s has been replaced by another model of its run.', p_artifact_id));
  end if;
  select * into v_run from public.federated_runs where id = v_artifact.run_id;
  insert into public.models (
    project_id, version, artifact_id, promoted_by, why, uri, sha256, size_bytes, run_id, attempt, round, parent_version, facts)
  values (
    p_project_id, 1 + coalesce((select max(version) from public.models where project_id = p_project_id), 0), v_artifact.id, p_by, p_why,
    p_uri, v_artifact.sha256, v_artifact.size_bytes, v_run.id,
    (select attempt from public.rounds where run_id = v_run.id and round = v_artifact.round), v_artifact.round,
    (select max(version) from public.models where project_id = p_project_id and sha256 = v_run.opened ->> 'initial_model'),
    jsonb_build_object('app', v_run.app, 'fab_hash', v_run.fab_hash, 'config', coalesce(v_run.opened -> 'config', v_run.config),
      'workload', v_run.opened -> 'workload', 'strategy', v_run.opened -> 'strategy', 'name', v_artifact.name, 'role', v_artifact.role,
      'score', v_artifact.score, 'format', v_artifact.format, 'parents', v_artifact.parents))
  returning * into v_model;
  perform espalier.add_sources(v_model);
  perform espalier.promote(v_model, p_by, p_why);
  return espalier.model_row(v_model.id, v_mark);
end
$$;

create function public.promote_model(p_project_id uuid, p_version integer, p_by text, p_why text) returns jsonb
language plpgsql set search_path = '' as $$
-- Make a version that is there the latest again.
declare
  v_model public.models;
  v_mark bigint;
begin
  perform espalier.lock_project(p_project_id);
  v_mark := espalier.last_event(p_project_id);
  select * into v_model from public.models where project_id = p_project_id and version = p_version;
  if not found then
    perform espalier.refuse('ES005', format('There is no model %s.', p_version));
  end if;
  perform espalier.promote(v_model, p_by, p_why);
  return espalier.model_row(v_model.id, v_mark);
end
$$;

create function public.note_artifact(p_artifact_id uuid, p_sha256 text, p_state text, p_uri text, p_error text) returns jsonb
language plpgsql set search_path = '' as $$
-- Note how an artifact's copy in a store fares: storing (at uri, from now on), stored, not stored (warned of once), gone.
-- error: a type and no sentence, since every participant reads events and a sentence may name paths of this server.
-- Null when the artifact has other bytes by now, or is forgotten: what is in the store then is not what its row says.
declare
  v_artifact public.artifacts;
  v_mark bigint;
begin
  select * into v_artifact from public.artifacts where id = p_artifact_id and sha256 = p_sha256;
  if not found then
    return null;
  end if;
  perform espalier.lock_project(v_artifact.project_id);
  v_mark := espalier.last_event(v_artifact.project_id);
  if p_state not in ('storing', 'stored', 'not stored', 'gone') then
    perform espalier.refuse('ES006', format('No copy of an artifact is %s.', p_state));
  elsif p_state = 'not stored' then
    perform espalier.emit(v_artifact.project_id, 'fl.client.warned', v_artifact.run_id, null, v_artifact.round,
      jsonb_build_object('what', 'artifact.not_stored', 'artifact_id', v_artifact.id, 'name', v_artifact.name, 'type', p_error),
      now(), null, v_artifact.id || ':' || p_sha256 || ':not stored');
  else
    update public.artifacts
    set stored_uri = case when p_state <> 'gone' then p_uri end, stored_at = case when p_state = 'stored' then now() end
    where id = p_artifact_id and sha256 = p_sha256;
    if not found then
      return null;
    end if;
  end if;
  return (select to_jsonb(f) || jsonb_build_object('events', espalier.events_since(f.project_id, v_mark))
    from public.artifact_list f where f.id = p_artifact_id);
end
$$;

-- Whose data is in what is there already, as it is known now.
select espalier.add_sources(m) from public.models m;

create or replace function espalier.relations() returns table (name text, kind text, is_shown boolean, is_followed boolean)
language sql immutable set search_path = '' as $$
  -- Each of our tables and views: whether people who log in may read it, held by row security, and whether Supabase Realtime
  -- follows it. What a heartbeat, a message or a printed line changes is not followed.
  values
    ('projects', 'table', true, false), ('nodes', 'table', true, false), ('node_sessions', 'table', true, true),
    ('members', 'table', true, false), ('coordinators', 'table', true, false), ('tokens', 'table', false, false),
    ('invitations', 'table', true, false), ('report_spools', 'table', false, false), ('audit_log', 'table', true, false),
    ('federated_runs', 'table', true, false), ('run_causes', 'table', true, false), ('run_attempts', 'table', true, true),
    ('rounds', 'table', true, true), ('node_updates', 'table', true, false), ('metrics', 'table', true, false),
    ('artifacts', 'table', true, true), ('models', 'table', true, true), ('model_sources', 'table', true, false),
    ('model_promotions', 'table', true, true), ('events', 'table', true, true),
    ('log_lines', 'table', true, false), ('log_tails', 'table', false, false),
    ('project_list', 'view', true, false), ('node_list', 'view', true, false), ('session_list', 'view', true, false),
    ('run_list', 'view', true, false), ('attempt_list', 'view', true, false), ('round_list', 'view', true, false),
    ('update_list', 'view', true, false), ('metric_list', 'view', true, false), ('event_list', 'view', true, false),
    ('log_list', 'view', true, false), ('artifact_list', 'view', true, false), ('model_list', 'view', true, false),
    ('model_source_list', 'view', true, false), ('promotion_list', 'view', true, false), ('audit_list', 'view', true, false),
    ('invitation_list', 'view', true, false), ('run_overview', 'view', true, false), ('round_table', 'view', true, false),
    ('node_overview', 'view', true, false), ('run_timeline', 'view', true, false), ('run_size', 'view', true, false)
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
