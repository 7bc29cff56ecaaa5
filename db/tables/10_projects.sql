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
