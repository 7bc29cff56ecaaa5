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
