-- A row for each table that shows all its rows to whoever may read it, and each view that reads with its owner's rights.
select format('row security is off for %s', c.relname), format('alter table public.%I enable row level security;', c.relname)
from espalier.relations() r join pg_class c on c.oid = to_regclass('public.' || r.name) where c.relkind = 'r' and not c.relrowsecurity
union all
select format('the view %s does not hold its reader to row security', c.relname),
  format('alter view public.%I set (security_invoker = true);', c.relname)
from espalier.relations() r join pg_class c on c.oid = to_regclass('public.' || r.name)
where c.relkind = 'v' and not coalesce(c.reloptions @> array['security_invoker=true'], false)
order by 1
