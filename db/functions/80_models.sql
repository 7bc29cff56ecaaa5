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
