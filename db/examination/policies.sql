-- A policy of ours lets who logs in read what espalier.my_…() or auth.uid() give: a row for each that does more, and for
-- each table that lacks one. Ours are named read_own and read_as_admin: any other can go.
select format('the policy %s lets %s %s more than theirs on %s', p.policyname, array_to_string(p.roles, ', '), lower(p.cmd), p.tablename),
  case when p.policyname not in ('read_own', 'read_as_admin') then format('drop policy %I on public.%I;', p.policyname, p.tablename) end
from pg_policies p join espalier.relations() r on r.name = p.tablename
where p.schemaname = 'public' and p.permissive = 'PERMISSIVE' and (
  p.cmd <> 'SELECT' or p.roles <> array['authenticated']::name[] or p.qual !~ 'espalier\.my_|auth\.uid')
union all
select format('no policy lets people read %s', r.name), null from espalier.relations() r
where r.kind = 'table' and r.is_shown
  and not exists (select from pg_policies p where p.schemaname = 'public' and p.tablename = r.name and p.permissive = 'PERMISSIVE')
order by 1
