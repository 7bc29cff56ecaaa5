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
begin
  insert into public.events (project_id, name, run_id, node_id, round, data, at, journal_seq, dedupe_key)
  values (p_project_id, p_name, p_run_id, p_node_id, p_round, p_data, p_at, p_journal_seq, p_dedupe_key)
  on conflict (project_id, dedupe_key) where dedupe_key is not null do nothing;
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
