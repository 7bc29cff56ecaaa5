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
