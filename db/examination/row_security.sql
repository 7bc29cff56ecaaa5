-- A row for each table that shows all its rows to whoever may read it, and each view that reads with its owner's rights.
select format('row security is off for %s', c.relname) from espalier.relations() r
join pg_class c on c.oid = to_regclass('public.' || r.name) where c.relkind = 'r' and not c.relrowsecurity
union all
select format('the view %s does not hold its reader to row security', c.relname) from espalier.relations() r
join pg_class c on c.oid = to_regclass('public.' || r.name)
where c.relkind = 'v' and not coalesce(c.reloptions @> array['security_invoker=true'], false)
union all
select format('%s is gone', r.name) from espalier.relations() r where to_regclass('public.' || r.name) is null
order by 1
