-- The whole schema. Written by `python -m db assemble` from tables/, functions/, views/ and rights.sql; edit those.

-- Projects, who belongs to them, who runs them, and who may speak to them.

create schema if not exists espalier;
comment on schema espalier is 'Helpers of Espalier''s functions; never exposed by an API.';

create domain public.flower_id as text
  constraint flower_id_is_uint64 check (case when value is null then true when value ~ '^[0-9]{1,20}$' then value::numeric <= 18446744073709551615 else false end);
comment on domain public.flower_id is 'A Flower run, node or series id: uint64, wider than bigint and than a JavaScript number, so text.';

create table public.projects (
  id uuid primary key default gen_random_uuid(),
  key bigint generated always as identity unique,
  slug text not null unique constraint projects_slug_is_plain check (slug ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$'),
  name text not null constraint projects_name_is_short check (length(name) between 1 and 200),
  created_at timestamptz not null default now()
);
comment on table public.projects is 'One admin server, one SuperLink, one project.';
alter table public.projects enable row level security;

create table public.nodes (
  id uuid primary key default gen_random_uuid(),
  key bigint generated always as identity unique,
  project_id uuid not null references public.projects on delete cascade,
  role text not null constraint nodes_role_is_known check (role in ('coordinator', 'participant')),
  external_id text not null constraint nodes_external_id_is_short check (length(external_id) between 1 and 200),
  display_name text not null constraint nodes_display_name_is_short check (length(display_name) between 1 and 200),
  status text not null default 'enrolled'
    constraint nodes_status_is_known check (status in ('enrolled', 'online', 'offline', 'lost', 'removed')),
  reason text,
  public_key text,
  flower_node_id public.flower_id,
  hardware jsonb not null default '{}' constraint nodes_hardware_is_object check (jsonb_typeof(hardware) = 'object'),
  datasets jsonb not null default '[]' constraint nodes_datasets_is_array check (jsonb_typeof(datasets) = 'array'),
  facts jsonb not null default '{}' constraint nodes_facts_is_object check (jsonb_typeof(facts) = 'object'),
  activity jsonb,
  reported_at timestamptz,
  last_seen_at timestamptz,
  status_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  removed_at timestamptz,
  said integer not null default 0,
  said_since timestamptz not null default now(),
  moved integer not null default 0,
  moved_since timestamptz not null default now(),
  constraint nodes_project_id_external_id_key unique (project_id, external_id)
);
create unique index nodes_project_id_flower_node_id_key on public.nodes (project_id, flower_node_id) where status <> 'removed';
create unique index nodes_one_coordinator on public.nodes (project_id) where role = 'coordinator';
comment on table public.nodes is 'The coordinator and the participants of a project.';
comment on column public.nodes.status is '
  enrolled ──beat──▶ online ◀──beat──▶ offline      online: the SuperNode runs; offline: only the client server speaks
                       │  ▲              │  ▲
                       └──┴── silent ────┴──┴──▶ lost ──beat──▶ online | offline
  any ──remove_node──▶ removed ──redeem_invitation──▶ enrolled';
comment on column public.nodes.last_seen_at is 'Clock of the database; it alone decides who is lost.';
comment on column public.nodes.reported_at is 'Clock of the node, as it said in its last heartbeat; decides nothing.';
comment on column public.nodes.said is 'Warnings that it caused in the hour since said_since; beyond espalier.said_in_an_hour() they are counted alone.';
comment on column public.nodes.moved is 'Comings, goings and sessions in the hour since moved_since, likewise.';
comment on column public.nodes.activity is 'The last thing that the node''s launcher said about a message at work.';
alter table public.nodes enable row level security;

create table public.node_sessions (
  id uuid primary key default gen_random_uuid(),
  key bigint generated always as identity unique,
  node_id uuid not null references public.nodes on delete cascade,
  kind text not null constraint node_sessions_kind_is_known check (kind in ('superlink', 'supernode')),
  status text not null default 'starting' constraint node_sessions_status_is_known
    check (status in ('starting', 'running', 'stopping', 'stopped', 'exited', 'failed', 'lost')),
  pid integer,
  flower_node_id public.flower_id,
  runtime_config jsonb not null default '{}'
    constraint node_sessions_runtime_config_is_object check (jsonb_typeof(runtime_config) = 'object'),
  reason text,
  last_lines jsonb not null default '[]' constraint node_sessions_last_lines_is_array check (jsonb_typeof(last_lines) = 'array'),
  started_at timestamptz not null default now(),
  status_at timestamptz not null default now(),
  ended_at timestamptz
);
create index node_sessions_node_id on public.node_sessions (node_id, (-key));
create index node_sessions_newest on public.node_sessions ((-key));
create unique index node_sessions_one_open on public.node_sessions (node_id, kind)
  where status in ('starting', 'running', 'stopping');
comment on table public.node_sessions is 'One life of a SuperLink or SuperNode process.';
comment on column public.node_sessions.status is '
  starting ──▶ running ──▶ stopping ──▶ stopped
     │            │  └─ exit 0 ──▶ exited
     └────────────┴────────────▶ failed       any open one ──pid gone, or superseded──▶ lost';
alter table public.node_sessions enable row level security;

create table public.members (
  user_id uuid not null,
  project_id uuid not null references public.projects on delete cascade,
  role text not null constraint members_role_is_known check (role in ('admin', 'participant')),
  node_id uuid references public.nodes on delete set null,
  created_at timestamptz not null default now(),
  primary key (user_id, project_id)
);
create index members_project_id on public.members (project_id);
create index members_node_id on public.members (node_id);
comment on table public.members is 'People who may log in; user_id is auth.users.id where Supabase is (db/supabase links it).';
alter table public.members enable row level security;

create table public.coordinators (
  project_id uuid primary key references public.projects on delete cascade,
  server_id text not null,
  host text not null,
  taken_at timestamptz not null default now(),
  lease_until timestamptz not null
);
comment on table public.coordinators is 'The lease: which admin server may write to a project, for 15 s at a time by the database''s clock.';
alter table public.coordinators enable row level security;

create table public.tokens (
  sha256 text primary key constraint tokens_sha256_is_hex check (sha256 ~ '^[0-9a-f]{64}$'),
  role text not null constraint tokens_role_is_known check (role in ('admin', 'node', 'participant')),
  subject text,
  project_id uuid references public.projects on delete cascade,
  created_at timestamptz not null default now(),
  revoked_at timestamptz
);
create index tokens_subject on public.tokens (role, subject);
create index tokens_project_id on public.tokens (project_id);
comment on table public.tokens is 'Bearer tokens by their hash; the token itself is never here. subject: the node''s id for role node.';
alter table public.tokens enable row level security;

create table public.invitations (
  id uuid primary key default gen_random_uuid(),
  key bigint generated always as identity unique,
  project_id uuid not null references public.projects on delete cascade,
  sha256 text not null unique constraint invitations_sha256_is_hex check (sha256 ~ '^[0-9a-f]{64}$'),
  label text,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  used_at timestamptz,
  node_id uuid references public.nodes on delete set null
);
create index invitations_project_id on public.invitations (project_id, (-key));
create index invitations_node_id on public.invitations (node_id);
comment on table public.invitations is 'One-time invitations by the hash of their secret: open until used_at or expires_at.';
alter table public.invitations enable row level security;

create table public.report_spools (
  node_id uuid not null references public.nodes on delete cascade,
  spool_id text not null constraint report_spools_spool_id_is_short check (length(spool_id) between 1 and 200),
  applied_seq bigint not null default 0,
  refused bigint not null default 0,
  updated_at timestamptz not null default now(),
  primary key (node_id, spool_id)
);
comment on table public.report_spools is 'How far each client server''s spool is applied; a line at or below applied_seq is never applied again.';
alter table public.report_spools enable row level security;

create table public.audit_log (
  key bigint generated always as identity primary key,
  project_id uuid not null references public.projects on delete cascade,
  at timestamptz not null default now(),
  actor text not null,
  action text not null,
  subject text,
  facts jsonb not null default '{}' constraint audit_log_facts_is_object check (jsonb_typeof(facts) = 'object')
);
create index audit_log_project_id on public.audit_log (project_id, (-key));
comment on table public.audit_log is 'Who did what to what; only ever added to.';
alter table public.audit_log enable row level security;

-- Runs, and what their journals give: attempts, rounds, updates, metrics, artifacts, models.

create table public.federated_runs (
  id uuid primary key default gen_random_uuid(),
  key bigint generated always as identity unique,
  project_id uuid not null references public.projects on delete cascade,
  label text,
  app text not null,
  fab_hash text,
  config jsonb not null default '{}' constraint federated_runs_config_is_object check (jsonb_typeof(config) = 'object'),
  origin text not null constraint federated_runs_origin_is_known check (origin in ('rest', 'shell')),
  status text not null default 'pending' constraint federated_runs_status_is_known
    check (status in ('pending', 'starting', 'running', 'paused', 'stopping', 'completed', 'failed', 'stopped')),
  series_id public.flower_id,
  opened jsonb constraint federated_runs_opened_is_object check (jsonb_typeof(opened) = 'object'),
  num_rounds integer,
  journal_seq bigint not null default 0,
  journal_offset bigint not null default 0,
  created_at timestamptz not null default now(),
  started_at timestamptz,
  ended_at timestamptz,
  waiting jsonb constraint federated_runs_waiting_is_object check (jsonb_typeof(waiting) = 'object'),
  ended_early text
);
create unique index federated_runs_one_active_by_rest on public.federated_runs (project_id)
  where origin = 'rest' and status not in ('completed', 'failed', 'stopped');
create unique index federated_runs_series on public.federated_runs (project_id, series_id);
create index federated_runs_newest on public.federated_runs (project_id, (-key));
create index federated_runs_newest_of_all on public.federated_runs ((-key));
comment on table public.federated_runs is 'A run as people see it; Flower''s runs of the same series are its attempts.';
comment on column public.federated_runs.status is '
  pending ──begin_attempt──▶ starting ──▶ running ◀──▶ paused
     │                          │            │           │
     │                          └────────────┴───────────┴──stop asked──▶ stopping
     └──▶ stopping | failed | stopped        any but pending ──▶ completed | failed | stopped
                                             failed | stopped ──resumed by hand──▶ starting
  The journal''s end line decides over an end that the server concluded before it was read.';
comment on column public.federated_runs.waiting is 'While too few nodes are there: round, available, wanted, and until when the run waits.';
comment on column public.federated_runs.ended_early is 'Why a completed run did not do all its rounds.';
comment on column public.federated_runs.opened is 'What the newest run.opened record says: workload, strategy, model, config, …';
comment on column public.federated_runs.journal_seq is 'Records up to here are in the rows below; the journal is the truth, they are its projection.';
alter table public.federated_runs enable row level security;

create table public.run_causes (
  run_id uuid primary key references public.federated_runs on delete cascade,
  node_id uuid references public.nodes on delete set null,
  cause jsonb not null constraint run_causes_cause_is_object check (jsonb_typeof(cause) = 'object'),
  created_at timestamptz not null default now()
);
create index run_causes_node_id on public.run_causes (node_id);
comment on table public.run_causes is 'Why a run failed. A table of its own, for the coordinator alone: it may quote every node. What is a node''s own is in node_updates.';
alter table public.run_causes enable row level security;

create table public.run_attempts (
  key bigint generated always as identity primary key,
  run_id uuid not null references public.federated_runs on delete cascade,
  attempt integer not null,
  flower_run_id public.flower_id not null unique,
  series_id public.flower_id,
  status text not null default 'starting' constraint run_attempts_status_is_known
    check (status in ('starting', 'running', 'completed', 'failed', 'stopped', 'lost')),
  reason text,
  created_at timestamptz not null default now(),
  started_at timestamptz,
  ended_at timestamptz,
  is_reopened boolean not null default false,
  unique (run_id, attempt)
);
comment on table public.run_attempts is 'One Flower run; a resumed run has several, one after the other.';
comment on column public.run_attempts.status is '
  starting ──▶ running ──▶ completed | failed | stopped, as the run ends
     └────────────┴──its ServerApp or its Flower run is gone, its run is not; or a later attempt begins──▶ lost
  A run that has not ended and whose newest attempt is over waits for the next one.';
comment on column public.run_attempts.is_reopened is 'Somebody had the run go on after this attempt had ended it.';
comment on column public.run_attempts.reason is 'What the admin server noted before it ended the Flower run: stop asked, ServerApp died: …';
alter table public.run_attempts enable row level security;

create table public.rounds (
  key bigint generated always as identity primary key,
  run_id uuid not null references public.federated_runs on delete cascade,
  round integer not null constraint rounds_round_counts_from_1 check (round >= 1),
  status text not null default 'open' constraint rounds_status_is_known check (status in ('open', 'closed', 'failed')),
  attempt public.flower_id,
  tries integer not null default 1,
  nodes jsonb not null default '[]' constraint rounds_nodes_is_array check (jsonb_typeof(nodes) = 'array'),
  needed integer,
  expected integer,
  counted integer,
  num_examples bigint,
  metrics jsonb not null default '{}' constraint rounds_metrics_is_object check (jsonb_typeof(metrics) = 'object'),
  server_metrics jsonb not null default '{}' constraint rounds_server_metrics_is_object check (jsonb_typeof(server_metrics) = 'object'),
  seconds double precision,
  aggregate_s double precision,
  bytes_down bigint,
  bytes_up bigint,
  commit jsonb,
  opened_at timestamptz not null,
  closed_at timestamptz,
  carried integer,
  unique (run_id, round)
);
comment on column public.rounds.carried is 'How many of the counted updates are of earlier rounds.';
comment on table public.rounds is 'Rounds as the journal says; times are the journal''s.';
comment on column public.rounds.status is '
  open ──round.closed──▶ closed      open ──its run ends──▶ failed ──another attempt──▶ open
  A closed round is never opened again.';
alter table public.rounds enable row level security;

create table public.node_updates (
  key bigint generated always as identity,
  run_id uuid not null,
  round integer not null,
  node_id uuid references public.nodes on delete set null,
  flower_node_id public.flower_id not null,
  kind text not null default 'train' constraint node_updates_kind_is_known check (kind in ('train', 'evaluate', 'query')),
  wave integer not null default 0,
  status text not null default 'sent' constraint node_updates_status_is_known
    check (status in ('sent', 'counted', 'refused', 'failed', 'lost', 'late')),
  attempt public.flower_id,
  tries integer not null default 1,
  message_id text,
  counted_in_round integer,
  num_examples bigint,
  metrics jsonb not null default '{}' constraint node_updates_metrics_is_object check (jsonb_typeof(metrics) = 'object'),
  bytes_down bigint,
  bytes_up bigint,
  timings jsonb not null default '{}' constraint node_updates_timings_is_object check (jsonb_typeof(timings) = 'object'),
  facts jsonb not null default '{}' constraint node_updates_facts_is_object check (jsonb_typeof(facts) = 'object'),
  cause jsonb,
  at timestamptz not null,
  primary key (run_id, key),
  unique (run_id, round, flower_node_id, kind, wave),
  foreign key (run_id, round) references public.rounds (run_id, round) on delete cascade
);
create index node_updates_node_id on public.node_updates (node_id, key);
comment on table public.node_updates is 'What became of each message to a node; node_id is null for a Flower node that never enrolled here.';
comment on column public.node_updates.status is '
  sent ──▶ counted | refused | failed | lost | late      lost ──its reply comes after all──▶ late
  A round that is opened again sends again: the row is reused, tries + 1. What counted stays, unless its round begins anew without it:
  then it is lost, or late if it had been carried into that round.';
alter table public.node_updates enable row level security;

create table public.metrics (
  key bigint generated always as identity,
  run_id uuid not null,
  round integer not null,
  scope text not null constraint metrics_scope_is_known check (scope in ('node', 'clients', 'server')),
  node_id uuid references public.nodes on delete set null,
  flower_node_id public.flower_id,
  name text not null constraint metrics_name_is_short check (length(name) between 1 and 200),
  value double precision not null
    constraint metrics_value_is_finite check (value > '-Infinity' and value < 'Infinity'),
  at timestamptz not null,
  primary key (run_id, key),
  unique nulls not distinct (run_id, round, scope, flower_node_id, name),
  foreign key (run_id, round) references public.rounds (run_id, round) on delete cascade
);
create index metrics_node_id on public.metrics (node_id);
comment on table public.metrics is 'Numbers by round. scope node: one node''s; clients: their weighted mean; server: the server''s own evaluation.';
alter table public.metrics enable row level security;

create table public.artifacts (
  id uuid primary key,
  key bigint generated always as identity unique,
  project_id uuid not null references public.projects on delete cascade,
  run_id uuid not null references public.federated_runs on delete cascade,
  name text not null,
  role text not null,
  uri text not null,
  sha256 text not null constraint artifacts_sha256_is_hex check (sha256 ~ '^[0-9a-f]{64}$'),
  size_bytes bigint not null constraint artifacts_size_is_positive check (size_bytes >= 0),
  format text not null,
  round integer,
  parents jsonb not null default '[]' constraint artifacts_parents_is_array check (jsonb_typeof(parents) = 'array'),
  created_at timestamptz not null,
  score jsonb constraint artifacts_score_is_object check (jsonb_typeof(score) = 'object'),
  removed_at timestamptz,
  stored_uri text,
  stored_at timestamptz,
  to_do text generated always as (case
    when removed_at is null and stored_at is null then 'store' when removed_at is not null and stored_uri is not null then 'remove' end) stored,
  unique (run_id, uri)
);
create index artifacts_project_id on public.artifacts (project_id, (-key));
create index artifacts_sha256 on public.artifacts (sha256);
create index artifacts_to_do on public.artifacts (project_id, (-key)) where to_do is not null;
comment on table public.artifacts is 'Files a run kept. id follows from run and uri, so that a replay gives the same one; parents are sha256.';
comment on column public.artifacts.score is 'Of role best: {metric, value, by}; by is server or clients.';
comment on column public.artifacts.removed_at is 'When the run''s retention let it go.';
comment on column public.artifacts.stored_uri is 'Where its copy in an artifact store is, or may be as long as stored_at is null; written before the upload begins.';
comment on column public.artifacts.to_do is 'What a server with an artifact store has to do about the copy: store or remove it.';
alter table public.artifacts enable row level security;

-- What of all artifacts somebody declared the project's model: versions, promotions, and whose data is in them.

create table public.models (
  id uuid primary key default gen_random_uuid(),
  key bigint generated always as identity unique,
  project_id uuid not null references public.projects on delete cascade,
  version integer not null,
  artifact_id uuid not null references public.artifacts,
  promoted_at timestamptz not null default now(),
  promoted_by text not null,
  why text,
  uri text not null,
  sha256 text not null constraint models_sha256_is_hex check (sha256 ~ '^[0-9a-f]{64}$'),
  size_bytes bigint not null constraint models_size_is_positive check (size_bytes >= 0),
  run_id uuid not null references public.federated_runs on delete cascade,
  attempt public.flower_id,
  round integer,
  parent_version integer,
  facts jsonb not null default '{}' constraint models_facts_is_object check (jsonb_typeof(facts) = 'object'),
  constraint models_version_counts_from_1 check (version >= 1),
  unique (project_id, version),
  foreign key (project_id, parent_version) references public.models (project_id, version)
);
create index models_artifact_id on public.models (artifact_id);
create index models_run_id on public.models (run_id);
create index models_parent on public.models (project_id, parent_version);
comment on table public.models is 'Artifacts that somebody declared a version of the project''s model.';
comment on column public.models.uri is 'The model''s own copy, which no run''s retention knows of: s3://…, or a path below ESPALIER_HOME.';
comment on column public.models.attempt is 'The Flower run that closed the model''s round.';
comment on column public.models.parent_version is 'The version that its run started from; null: from the app''s initial model.';
comment on column public.models.facts is 'As of the promotion: app, fab_hash, config, workload and strategy of the run; name, role, score, format and parents of the artifact.';
alter table public.models enable row level security;

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

-- What happened, and what was printed.
-- Large tables have no index on key alone: with one, a page of one run is sometimes planned as a walk through all runs.

create table public.events (
  key bigint generated always as identity,
  project_id uuid not null references public.projects on delete cascade,
  run_id uuid references public.federated_runs on delete cascade,
  node_id uuid references public.nodes on delete set null,
  round integer,
  name text not null constraint events_name_is_known check (name in (
    'fl.federation.created', 'fl.federation.started', 'fl.federation.paused', 'fl.federation.resumed',
    'fl.federation.stopped', 'fl.federation.completed', 'fl.federation.failed',
    'fl.client.joined', 'fl.client.dropped', 'fl.client.warned',
    'fl.round.started', 'fl.round.completed', 'fl.aggregate.completed', 'fl.artifact.promoted')),
  data jsonb not null default '{}' constraint events_data_is_object check (jsonb_typeof(data) = 'object'),
  at timestamptz not null default now(),
  journal_seq bigint,
  dedupe_key text,
  primary key (project_id, key)
);
create index events_run_id on public.events (run_id, key);
create index events_node_id on public.events (node_id, key);
create unique index events_once on public.events (project_id, dedupe_key) where dedupe_key is not null;
comment on table public.events is 'The outbox. Keys grow in the order of commit within a project (espalier.lock_project), so a reader that asks for keys after the last one misses none.';
comment on column public.events.journal_seq is 'The journal record that it comes from; null for what the server or a site said.';
comment on column public.events.dedupe_key is 'What makes it the same event when it is said twice.';
alter table public.events enable row level security;

create table public.log_lines (
  key bigint generated always as identity,
  run_id uuid references public.federated_runs on delete cascade,
  node_id uuid references public.nodes on delete set null,
  flower_run_id public.flower_id,
  stream text not null,
  source text not null constraint log_lines_source_is_known
    check (source in ('serverapp', 'clientapp', 'supernode', 'superlink', 'executor')),
  level text not null constraint log_lines_level_is_known check (level in ('debug', 'info', 'warning', 'error', 'critical')),
  text text not null,
  message_id text,
  at timestamptz not null,
  received_at timestamptz not null default now(),
  unique nulls not distinct (run_id, key)
);
create index log_lines_node_id on public.log_lines (node_id, key);
create index log_lines_orphans on public.log_lines (flower_run_id) where run_id is null;
create index log_lines_of_no_run on public.log_lines (node_id) where run_id is null;
create index log_lines_received_at on public.log_lines using brin (received_at);
comment on table public.log_lines is 'Lines of ServerApps, and what sites forward. at is the writer''s clock; keys of one run grow in the order of commit.';
comment on column public.log_lines.flower_run_id is 'Kept for lines of a Flower run that is not adopted yet; begin_attempt gives them their run_id.';
alter table public.log_lines enable row level security;

create table public.log_tails (
  run_id uuid references public.federated_runs on delete cascade,
  stream text not null,
  end_offset bigint not null default 0,
  lines bigint not null default 0,
  unique nulls not distinct (run_id, stream)
);
comment on table public.log_tails is 'How far each file is read. The row with stream '''' counts all lines of its run and, locked, keeps their keys in order.';
alter table public.log_tails enable row level security;

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

-- Helpers that more than one function needs.

create function espalier.allowed_from(p_machine text, p_target text) returns text[]
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

create function espalier.has_ended(p_run_status text) returns boolean
language sql immutable set search_path = '' as $$
  select p_run_status in ('completed', 'failed', 'stopped')
$$;

create function espalier.refuse(p_code text, p_message text, p_detail text default '') returns void
language plpgsql set search_path = '' as $$
-- Codes: ES001 active run, ES002 invitation, ES003 node exists, ES004 stale, ES005 no such row, ES006 bad value (db/errors.py).
begin
  raise exception using errcode = p_code, message = p_message, detail = p_detail;
end
$$;

create function espalier.is_about_the_data(p_sqlstate text) returns boolean
language sql immutable set search_path = '' as $$
  -- Errors that one record causes by what it says; anything else (disk full, deadlock, …) fails the whole call.
  select left(p_sqlstate, 2) in ('22', '23', 'ES', 'P0')
$$;

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

-- Functions that run once a record are in plpgsql: it keeps their plans, language sql plans at each call (before Postgres 18).

create function espalier.lock_project(p_project_id uuid) returns void
language plpgsql set search_path = '' as $$
-- Writers of events go one after the other, so that event keys grow in the order of commit and readers by key miss none.
begin
  perform pg_advisory_xact_lock(hashtextextended('espalier:' || p_project_id::text, 0));
end
$$;

create function espalier.last_event(p_project_id uuid) returns bigint
language plpgsql stable set search_path = '' as $$
begin
  return coalesce((select max(key) from public.events where project_id = p_project_id), 0);
end
$$;

create function espalier.events_since(p_project_id uuid, p_key bigint) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
  return coalesce(
    (select jsonb_agg(to_jsonb(e) order by e.key) from public.event_list e where e.project_id = p_project_id and e.key > p_key), '[]');
end
$$;

create function espalier.emit(
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

create function espalier.in_calendar(p_value timestamptz) returns timestamptz
language sql immutable set search_path = '' as $$
  -- Readers know the years 1 to 9999 alone, in whatever zone they show a time.
  select case when p_value between '0001-01-02 00:00:00+00' and '9999-12-30 00:00:00+00' then p_value end
$$;

create function espalier.is_plain_time(p_value text) returns boolean
language sql immutable as $$
  -- Can it be cast without a doubt? No search_path is set, so that this is inlined where it is asked a thousand times a statement.
  select p_value operator(pg_catalog.~)
    '^[1-8]\d{3}-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-](0\d|1[0-2]):[0-5]\d)$'
$$;

create function espalier.as_time(p_value text) returns timestamptz
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

create function espalier.as_odd_time(p_value text) returns timestamptz
language plpgsql stable set search_path = '' as $$
begin
  if p_value !~ '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d' then
    return null;
  elsif p_value ~ '([Zz]|[+-]\d\d(:?\d\d)?)$' then
    return p_value::timestamptz;
  else
    return p_value::timestamp at time zone 'UTC';
  end if;
exception when data_exception then
  return null;
end
$$;

create function espalier.as_array(p_value jsonb) returns jsonb
language sql immutable set search_path = '' as $$
  select case when jsonb_typeof(p_value) = 'array' then p_value else '[]' end
$$;

create function espalier.or_empty(p_value jsonb) returns jsonb
language sql immutable set search_path = '' as $$
  -- For a column that is an object: nothing said is {}, anything else is left to the column's check.
  select coalesce(nullif(p_value, 'null'), '{}')
$$;

create function espalier.cause_of(p_value jsonb) returns jsonb
language plpgsql immutable set search_path = '' as $$
-- JSON null and a missing key alike are SQL null.
begin
  if p_value is null or jsonb_typeof(p_value) = 'null' then
    return null;
  elsif jsonb_typeof(p_value) <> 'object' then
    raise exception using errcode = 'ES006', message = 'A cause is an object.';
  end if;
  return p_value;
end
$$;

-- Projects, the lease, tokens, the audit log.

create function public.schema_version() returns jsonb
language sql immutable set search_path = '' as $$
  -- The newest migration; each migration replaces this function.
  select to_jsonb('20261129090000'::text)
$$;

create function public.open_project(p_slug text, p_name text, p_coordinator_external_id text, p_coordinator_name text) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_project public.projects;
  v_node_id uuid;
begin
  insert into public.projects (slug, name) values (p_slug, p_name)
  on conflict (slug) do update set name = excluded.name
  returning * into v_project;
  insert into public.nodes (project_id, role, external_id, display_name, status)
  values (v_project.id, 'coordinator', p_coordinator_external_id, p_coordinator_name, 'online')
  on conflict (project_id) where role = 'coordinator'
  do update set external_id = excluded.external_id, display_name = excluded.display_name
  returning id into v_node_id;
  return jsonb_build_object('id', v_project.id, 'slug', v_project.slug, 'name', v_project.name,
    'created_at', v_project.created_at, 'coordinator_node_id', v_node_id);
end
$$;

create function public.hold_lease(p_project_id uuid, p_server_id text, p_host text) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_row public.coordinators;
begin
  insert into public.coordinators as c (project_id, server_id, host, lease_until)
  values (p_project_id, p_server_id, p_host, now() + interval '15 seconds')
  on conflict (project_id) do update
    set server_id = excluded.server_id, host = excluded.host, lease_until = excluded.lease_until,
        taken_at = case when c.server_id = excluded.server_id then c.taken_at else now() end
    where c.server_id = excluded.server_id or c.lease_until <= now()
  returning * into v_row;
  if not found then
    select * into v_row from public.coordinators where project_id = p_project_id;
  end if;
  return jsonb_build_object('held', v_row.server_id = p_server_id, 'server_id', v_row.server_id, 'host', v_row.host,
    'taken_at', v_row.taken_at, 'lease_until', v_row.lease_until);
end
$$;

create function public.release_lease(p_project_id uuid, p_server_id text) returns jsonb
language sql set search_path = '' as $$
  with gone as (
    delete from public.coordinators where project_id = p_project_id and server_id = p_server_id returning 1
  )
  select to_jsonb(count(*) > 0) from gone
$$;

create function public.add_token(p_sha256 text, p_role text, p_subject text, p_project_id uuid) returns jsonb
language sql set search_path = '' as $$
  insert into public.tokens (sha256, role, subject, project_id) values (p_sha256, p_role, p_subject, p_project_id)
  on conflict (sha256) do nothing;
  select 'null'::jsonb
$$;

create function public.find_token(p_sha256 text) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object('role', role, 'subject', subject, 'project_id', project_id)
  from public.tokens where sha256 = p_sha256 and revoked_at is null
$$;

create function public.revoke_tokens(p_role text, p_subject text) returns jsonb
language sql set search_path = '' as $$
  with gone as (
    update public.tokens set revoked_at = now() where role = p_role and subject = p_subject and revoked_at is null returning 1
  )
  select to_jsonb(count(*)) from gone
$$;

create function public.audit(p_project_id uuid, p_actor text, p_action text, p_subject text, p_facts jsonb) returns jsonb
language sql set search_path = '' as $$
  insert into public.audit_log (project_id, actor, action, subject, facts)
  values (p_project_id, p_actor, p_action, p_subject, p_facts)
  returning to_jsonb(audit_log)
$$;

-- Nodes: enrolment, heartbeats, sessions.

create function espalier.node_row(p_node_id uuid, p_mark bigint default null) returns jsonb
language sql stable set search_path = '' as $$
  -- A node as node_list has it, with the events of this transaction: those after the mark, none without one.
  select to_jsonb(n) || jsonb_build_object('events',
    case when p_mark is null then '[]' else espalier.events_since(n.project_id, p_mark) end)
  from public.node_list n where n.id = p_node_id
$$;

create function espalier.move_node(p_node_id uuid, p_status text, p_reason text, p_data jsonb default '{}') returns boolean
language plpgsql set search_path = '' as $$
-- Move a node by its transition table and say so: joined when it comes online, dropped when it leaves.
declare
  v_before text;
  v_project_id uuid;
begin
  select status, project_id into v_before, v_project_id from public.nodes where id = p_node_id for no key update;
  update public.nodes set status = p_status, reason = p_reason, status_at = now()
  where id = p_node_id and status = any (espalier.allowed_from('node', p_status));
  if not found then
    return false;
  end if;
  if p_status = 'online' then
    perform espalier.emit(v_project_id, 'fl.client.joined', null, p_node_id, null, p_data || jsonb_build_object('from', v_before));
  elsif p_status = 'lost' or (v_before = 'online' and p_status in ('offline', 'removed')) then
    perform espalier.emit(v_project_id, 'fl.client.dropped', null, p_node_id, null,
      p_data || jsonb_build_object('from', v_before, 'to', p_status, 'reason', p_reason));
  end if;
  return true;
end
$$;

create function public.create_invitation(p_project_id uuid, p_sha256 text, p_label text, p_expires_in_s double precision) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_id uuid;
begin
  insert into public.invitations (project_id, sha256, label, expires_at)
  values (p_project_id, p_sha256, p_label, now() + make_interval(secs => p_expires_in_s))
  returning id into v_id;
  return (select to_jsonb(i) from public.invitation_list i where i.id = v_id);
end
$$;

create function espalier.open_invitation(p_sha256 text, p_external_id text) returns public.invitations
language plpgsql set search_path = '' as $$
-- Give the invitation that would let a node of this external id in, locked.
declare
  v_invitation public.invitations;
begin
  select * into v_invitation from public.invitations where sha256 = p_sha256 for update;
  if not found then
    perform espalier.refuse('ES002', 'The invitation is unknown.', 'unknown');
  elsif v_invitation.used_at is not null then
    perform espalier.refuse('ES002', 'The invitation is used.', 'used');
  elsif v_invitation.expires_at <= now() then
    perform espalier.refuse('ES002', 'The invitation is expired.', 'expired');
  end if;
  perform 1 from public.nodes
  where project_id = v_invitation.project_id and external_id = p_external_id
    and not (status = any (espalier.allowed_from('node', 'enrolled')) and role = 'participant');
  if found then
    perform espalier.refuse('ES003', format('A node with the external id %s is enrolled already; remove it first.', p_external_id));
  end if;
  return v_invitation;
end
$$;

create function public.check_invitation(p_sha256 text, p_external_id text) returns jsonb
language plpgsql set search_path = '' as $$
begin
  perform espalier.open_invitation(p_sha256, p_external_id);
  return 'null';
end
$$;

create function public.redeem_invitation(
  p_sha256 text, p_external_id text, p_display_name text, p_public_key text, p_flower_node_id text, p_token_sha256 text
) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_invitation public.invitations := espalier.open_invitation(p_sha256, p_external_id);
  v_node public.nodes;
  v_mark bigint;
begin
  perform espalier.lock_project(v_invitation.project_id);
  v_mark := espalier.last_event(v_invitation.project_id);
  insert into public.nodes as n (project_id, role, external_id, display_name, public_key, flower_node_id)
  values (v_invitation.project_id, 'participant', p_external_id, p_display_name, p_public_key, p_flower_node_id)
  on conflict (project_id, external_id) do update
    set display_name = excluded.display_name, public_key = excluded.public_key, flower_node_id = excluded.flower_node_id,
        status = 'enrolled', status_at = now(), reason = null, removed_at = null, last_seen_at = null, activity = null
    where n.status = any (espalier.allowed_from('node', 'enrolled')) and n.role = 'participant'
  returning * into v_node;
  if not found then -- somebody else was faster
    perform espalier.open_invitation(p_sha256, p_external_id);
  end if;
  update public.invitations set used_at = now(), node_id = v_node.id where id = v_invitation.id;
  insert into public.tokens (sha256, role, subject, project_id)
  values (p_token_sha256, 'node', v_node.id::text, v_node.project_id);
  return espalier.node_row(v_node.id, v_mark);
end
$$;

create function public.remove_node(p_node_id uuid) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_project_id uuid;
  v_mark bigint;
begin
  select project_id into v_project_id from public.nodes where id = p_node_id and role = 'participant';
  if not found then
    return null;
  end if;
  perform espalier.lock_project(v_project_id);
  v_mark := espalier.last_event(v_project_id);
  if not espalier.move_node(p_node_id, 'removed', 'removed') then
    return null;
  end if;
  update public.nodes set removed_at = now() where id = p_node_id;
  update public.node_sessions set status = 'lost', reason = 'node removed', status_at = now(), ended_at = now()
  where node_id = p_node_id and status = any (espalier.allowed_from('session', 'lost'));
  perform public.revoke_tokens('node', p_node_id::text);
  return espalier.node_row(p_node_id, v_mark);
end
$$;

create function public.beat(p_node_id uuid, p_facts jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_node public.nodes;
  v_status text := case when p_facts ->> 'supernode_state' = 'running' then 'online' else 'offline' end;
  v_mark bigint;
begin
  -- Only a beat that changes something writes an event, and so has to wait for its turn among the project's writers.
  for v_turn in 1..2 loop
    select * into v_node from public.nodes where id = p_node_id;
    if not found then
      perform espalier.refuse('ES005', format('There is no node %s.', p_node_id));
    elsif v_node.status <> v_status and v_mark is null then
      perform espalier.lock_project(v_node.project_id);
      v_mark := espalier.last_event(v_node.project_id);
    end if;
    select * into v_node from public.nodes where id = p_node_id for no key update;
    exit when v_node.status = v_status or v_mark is not null;
  end loop;
  if v_node.status = 'removed' then
    perform espalier.refuse('ES004', format('The node %s was removed.', v_node.external_id));
  end if;
  update public.nodes set last_seen_at = now(), facts = p_facts, reported_at = espalier.as_time(p_facts ->> 'reported_at')
  where id = p_node_id;
  perform espalier.move_node(p_node_id, v_status, p_facts ->> 'supernode_state');
  return espalier.node_row(p_node_id, v_mark) || jsonb_build_object('joined', v_node.status in ('enrolled', 'lost'));
end
$$;

create function public.mark_lost_nodes(p_project_id uuid, p_silent_s double precision) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_node_id uuid;
  v_mark bigint;
  v_rows jsonb := '[]';
begin
  perform 1 from public.nodes
  where project_id = p_project_id and role = 'participant' and status in ('online', 'offline')
    and last_seen_at < now() - make_interval(secs => p_silent_s);
  if not found then
    return v_rows;
  end if;
  perform espalier.lock_project(p_project_id);
  for v_node_id in
    select id from public.nodes
    where project_id = p_project_id and role = 'participant' and status in ('online', 'offline')
      and last_seen_at < now() - make_interval(secs => p_silent_s)
    order by key for no key update
  loop
    v_mark := espalier.last_event(p_project_id);
    perform espalier.move_node(v_node_id, 'lost', 'silent', jsonb_build_object('silent_s', p_silent_s));
    v_rows := v_rows || jsonb_build_array(espalier.node_row(v_node_id, v_mark));
  end loop;
  return v_rows;
end
$$;

create function espalier.supersede_sessions(p_node_id uuid, p_kind text, p_but uuid default null) returns void
language sql set search_path = '' as $$
  update public.node_sessions
  set status = 'lost', reason = coalesce(reason, 'another session began'), status_at = now(), ended_at = now()
  where node_id = p_node_id and kind = p_kind and id is distinct from p_but
    and status = any (espalier.allowed_from('session', 'lost'))
$$;

create function public.open_session(p_node_id uuid, p_kind text, p_runtime_config jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_id uuid;
begin
  perform 1 from public.nodes where id = p_node_id for no key update;
  if not found then
    perform espalier.refuse('ES005', format('There is no node %s.', p_node_id));
  end if;
  perform espalier.supersede_sessions(p_node_id, p_kind);
  insert into public.node_sessions (node_id, kind, runtime_config) values (p_node_id, p_kind, p_runtime_config)
  returning id into v_id;
  return (select to_jsonb(s) from public.session_list s where s.id = v_id);
end
$$;

create function public.move_session(p_session_id uuid, p_status text, p_pid integer, p_reason text, p_last_lines jsonb) returns jsonb
language plpgsql set search_path = '' as $$
begin
  if espalier.allowed_from('session', p_status) = '{}' then
    perform espalier.refuse('ES006', format('No session becomes %s.', p_status));
  end if;
  update public.node_sessions
  set status = p_status, status_at = now(), pid = coalesce(p_pid, pid), reason = coalesce(p_reason, reason),
      last_lines = coalesce(p_last_lines, last_lines),
      ended_at = case when p_status in ('stopped', 'exited', 'failed', 'lost') then now() end
  where id = p_session_id and status = any (espalier.allowed_from('session', p_status));
  if not found then
    perform 1 from public.node_sessions where id = p_session_id;
    if not found then
      perform espalier.refuse('ES005', format('There is no session %s.', p_session_id));
    end if;
    return null;
  end if;
  return (select to_jsonb(s) from public.session_list s where s.id = p_session_id);
end
$$;

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

-- The journal's projection: one function a kind of record, and the two that drive them.

create function espalier.put_metrics(
  p_run public.federated_runs, p_round integer, p_scope text, p_node_id uuid, p_flower_node_id text, p_metrics jsonb, p_at timestamptz
) returns void
language plpgsql set search_path = '' as $$
-- A value that is no number fails its cast, and with it the record.
begin
  insert into public.metrics (run_id, round, scope, node_id, flower_node_id, name, value, at)
  select p_run.id, p_round, p_scope, p_node_id, p_flower_node_id, m.key, m.value::double precision, p_at
  from jsonb_each(p_metrics) as m
  on conflict (run_id, round, scope, flower_node_id, name) do update set value = excluded.value, at = excluded.at;
end
$$;

create function espalier.apply_run_opened(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
language plpgsql set search_path = '' as $$
begin
  update public.federated_runs
  set opened = r - array['seq', 'at', 'kind', 'attempt'], num_rounds = (r ->> 'num_rounds')::integer,
      status = case when status in ('pending', 'starting', 'paused') then 'running' else status end
  where id = p_run.id;
  perform espalier.add_attempt(p_run.id, r ->> 'attempt', p_run.series_id);
  perform espalier.start_run(p_run, r ->> 'attempt', p_at, (r ->> 'seq')::bigint);
end
$$;

create function espalier.apply_round_waiting(p_run public.federated_runs, r jsonb) returns void
language sql set search_path = '' as $$
  update public.federated_runs set waiting = jsonb_build_object('round', (r ->> 'round')::integer, 'available', (r ->> 'available')::integer,
    'wanted', (r ->> 'wanted')::integer, 'until', espalier.as_time(r ->> 'until'))
  where id = p_run.id
$$;

create function espalier.apply_round_opened(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
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

create function espalier.apply_update(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
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

create function espalier.apply_round_closed(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
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

create function espalier.apply_artifact(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
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

create function espalier.apply_pause(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_paused boolean := r ->> 'kind' = 'run.paused';
begin
  update public.federated_runs set status = case when v_paused then 'paused' else 'running' end
  where id = p_run.id and status = case when v_paused then 'running' else 'paused' end;
  perform espalier.emit(p_run.project_id, case when v_paused then 'fl.federation.paused' else 'fl.federation.resumed' end, p_run.id, null, null,
    jsonb_build_object('after_round', r -> 'after_round'), p_at, (r ->> 'seq')::bigint, p_run.id || ':journal:' || (r ->> 'seq'));
end
$$;

create function espalier.apply_run_closed(p_run public.federated_runs, r jsonb, p_at timestamptz) returns void
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

create function espalier.apply_record(p_run public.federated_runs, r jsonb) returns void
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

create function espalier.apply_records(
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

create function public.apply_journal(p_run_id uuid, p_records jsonb, p_end_offset bigint) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_run public.federated_runs;
  v_seq bigint;
  v_refused integer;
  v_mark bigint;
begin
  perform espalier.lock_project(espalier.project_of_run(p_run_id));
  select * into v_run from public.federated_runs where id = p_run_id for no key update;
  v_mark := espalier.last_event(v_run.project_id);
  begin
    select * into v_seq, v_refused from espalier.apply_records(v_run, p_records, false);
  exception when others then
    -- Almost no batch holds a bad record: subtransactions are paid for only when one does.
    if not espalier.is_about_the_data(sqlstate) then
      raise;
    end if;
    select * into v_seq, v_refused from espalier.apply_records(v_run, p_records, true);
  end;
  update public.federated_runs
  set journal_seq = v_seq, journal_offset = greatest(journal_offset, p_end_offset)
  where id = p_run_id;
  perform espalier.fail_open_rounds(p_run_id);
  return (
    select jsonb_build_object('journal_seq', journal_seq, 'journal_offset', journal_offset, 'status', status,
      'refused', v_refused, 'events', espalier.events_since(project_id, v_mark))
    from public.federated_runs where id = p_run_id
  );
end
$$;

create function public.forget_projection(p_run_id uuid) returns jsonb
language plpgsql set search_path = '' as $$
begin
  perform espalier.lock_project(espalier.project_of_run(p_run_id));
  update public.federated_runs set journal_seq = 0, journal_offset = 0 where id = p_run_id;
  delete from public.rounds where run_id = p_run_id;
  -- A promoted artifact is a model's: the replay writes it again under the same id.
  delete from public.artifacts a where run_id = p_run_id and not exists (select 1 from public.models m where m.artifact_id = a.id);
  delete from public.events where run_id = p_run_id and journal_seq is not null;
  return 'null';
end
$$;

-- Log lines: tails of files on the coordinator, and what sites forward.

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

create function espalier.lines_of_no_run() returns integer
language sql immutable set search_path = '' as $$
  -- For each node: of a SuperNode, and of ClientApps whose run is not adopted yet.
  select 10000
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

create function public.append_log_lines(
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

create function public.tail_offset(p_run_id uuid, p_stream text) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
  if p_run_id is null then
    return coalesce((select to_jsonb(end_offset) from public.log_tails where run_id is null and stream = p_stream), '0');
  end if;
  return coalesce((select to_jsonb(end_offset) from public.log_tails where run_id = p_run_id and stream = p_stream), '0');
end
$$;

-- Reports: what client servers say of their site, spooled there until it is acknowledged here.

create function espalier.superlink_is_insecure(p_project_id uuid) returns boolean
language sql stable set search_path = '' as $$
  -- As the coordinator started it last: what a site says of itself decides nothing.
  select coalesce((select s.runtime_config -> 'insecure' = 'true'
    from public.node_sessions s join public.nodes n on n.id = s.node_id
    where n.project_id = p_project_id and s.kind = 'superlink' order by s.key desc limit 1), false)
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

create function espalier.report_session(p_node public.nodes, d jsonb) returns void
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

create function espalier.report_inventory(p_node public.nodes, d jsonb) returns void
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

create function espalier.run_of(p_project_id uuid, p_flower_run_id text) returns uuid
language sql stable set search_path = '' as $$
  select r.id from public.run_attempts a join public.federated_runs r on r.id = a.run_id
  where a.flower_run_id = p_flower_run_id and r.project_id = p_project_id
$$;

create function espalier.report_log(p_node public.nodes, d jsonb, p_log_lines_per_run integer) returns jsonb
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

create function espalier.report_clientapp(p_node public.nodes, d jsonb) returns void
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

create function espalier.apply_report(p_node public.nodes, p_line jsonb, p_log_lines_per_run integer) returns jsonb
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

create function espalier.apply_reports(
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

create function public.accept_reports(p_node_id uuid, p_spool_id text, p_lines jsonb, p_log_lines_per_run integer) returns jsonb
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

-- Models: versions of a project, which of them is the latest, and the copies that artifacts have in a store.

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

-- What is not kept for ever, deleted in batches: rows are locked that nobody writes any more, and what is locked is passed over.

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

-- Who may do what. Supabase's roles are absent on a plain Postgres, so the grants are in a function that can be run again
-- when they appear. The API roles get nothing here; db/supabase gives participants what they may read.

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

create function espalier.functions() returns setof regprocedure
language sql stable set search_path = '' as $$
  -- All helpers, and of schema public, where a Supabase project has others too, ours.
  select p.oid::regprocedure from pg_catalog.pg_proc p
  where p.pronamespace = 'espalier'::regnamespace or (p.pronamespace = 'public'::regnamespace and p.proname in (
    'schema_version', 'open_project', 'hold_lease', 'release_lease', 'add_token', 'find_token', 'revoke_tokens', 'audit',
    'create_invitation', 'check_invitation', 'redeem_invitation', 'remove_node', 'beat', 'mark_lost_nodes', 'open_session', 'move_session',
    'begin_run', 'begin_attempt', 'adopt_run', 'move_run', 'note_attempt', 'lose_attempt', 'apply_journal', 'forget_projection',
    'append_log_lines', 'tail_offset', 'prune', 'accept_reports', 'add_model', 'promote_model', 'note_artifact'))
$$;

create function espalier.set_rights() returns void
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
