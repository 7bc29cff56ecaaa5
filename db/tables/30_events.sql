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
