-- For a database on one's own machine (`supabase db reset`), nothing that a hosted project needs: the admin server makes its
-- project itself. A project with a run that has closed two rounds, so that pages have something to show.

do $$
declare
  v_project uuid := (public.open_project('fed-project', 'Federated Project', 'coordinator', 'Coordinator') ->> 'id')::uuid;
  v_run uuid;
begin
  if exists (select from public.federated_runs where project_id = v_project) then
    return;
  end if;
  v_run := (public.begin_run(v_project, 'flower-app', null, '{"lr": 0.1}', 'an example', 'shell') ->> 'id')::uuid;
  perform public.begin_attempt(v_run, '1', '1');
  perform public.apply_journal(v_run, (
    select jsonb_agg(record || jsonb_build_object('seq', seq, 'at', now() - make_interval(secs => 60 - seq), 'attempt', '1') order by seq)
    from jsonb_array_elements('[
      {"kind": "run.opened", "workload": "digits", "strategy": "fedavg", "num_rounds": 2},
      {"kind": "round.opened", "round": 1, "nodes": [], "needed": 0},
      {"kind": "round.closed", "round": 1, "counted": 0, "metrics": {"loss": 1.2, "accuracy": 0.61}, "seconds": 2.5,
        "commit": {"file": "commit/round-1.safetensors"}},
      {"kind": "round.opened", "round": 2, "nodes": [], "needed": 0},
      {"kind": "round.closed", "round": 2, "counted": 0, "metrics": {"loss": 0.7, "accuracy": 0.8}, "seconds": 2.4,
        "commit": {"file": "commit/round-2.safetensors"}},
      {"kind": "run.closed", "status": "completed"}]') with ordinality as r (record, seq)), 1);
end
$$;
