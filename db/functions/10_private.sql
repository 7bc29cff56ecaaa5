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
