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
