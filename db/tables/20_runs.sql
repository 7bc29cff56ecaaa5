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
