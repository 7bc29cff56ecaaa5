-- A row for each table that Supabase Realtime follows and should not, or does not and should.
select 'there is no publication supabase_realtime', format('create publication supabase_realtime for table %s;', string_agg(
  format('public.%I', r.name), ', ' order by r.name))
from espalier.relations() r where r.is_followed and not exists (select from pg_publication where pubname = 'supabase_realtime')
having count(*) > 0
union all
select format(case when r.is_followed then '%s is not followed' else '%s is followed, and changes too often or is secret' end, r.name),
  format(case when r.is_followed then 'alter publication supabase_realtime add table public.%I;'
    else 'alter publication supabase_realtime drop table public.%I;' end, r.name)
from espalier.relations() r
where r.kind = 'table' and exists (select from pg_publication where pubname = 'supabase_realtime')
  and r.is_followed <> exists (
    select from pg_publication_tables t where t.pubname = 'supabase_realtime' and t.schemaname = 'public' and t.tablename = r.name)
order by 1
