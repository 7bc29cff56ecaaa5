-- Who may do what, against espalier.relations() and espalier.functions(): a row for each right too many or too few.
-- On a plain Postgres a service_role belongs to another database of the server, and may lack everything here.
with ours as (
  select r.name, r.kind, r.is_shown, c.oid, c.relowner, c.relacl
  from espalier.relations() r left join pg_class c on c.oid = to_regclass('public.' || r.name)
), held as (
  select o.name, o.is_shown, a.grantee, a.privilege_type from ours o, aclexplode(o.relacl) a
  union all
  select o.name || '.' || t.attname, false, a.grantee, a.privilege_type
  from ours o join pg_attribute t on t.attrelid = o.oid, aclexplode(t.attacl) a
  union all
  select s.relname, false, a.grantee, a.privilege_type
  from ours o join pg_depend d on d.refobjid = o.oid and d.deptype = 'i' join pg_class s on s.oid = d.objid and s.relkind = 'S',
    aclexplode(s.relacl) a
  union all
  select p.oid::regprocedure::text, p.proname in ('my_projects', 'my_admin_projects', 'my_nodes', 'my_runs', 'my_admin_runs'),
    a.grantee, a.privilege_type
  from pg_proc p join espalier.functions() f on f = p.oid::regprocedure,
    aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
), people as (
  select h.name, h.is_shown, h.privilege_type, case when h.grantee = 0 then 'everybody' else h.grantee::regrole::text end as who
  from held h where h.grantee = 0 or h.grantee::regrole::text in ('anon', 'authenticated')
)
select format('%s may %s %s', who, lower(privilege_type), name), null from people
where not (who = 'authenticated' and is_shown and privilege_type in ('SELECT', 'EXECUTE'))
union all
select format('authenticated may not select %s', o.name), null from ours o
where o.is_shown and to_regprocedure('espalier.set_participant_rights()') is not null
  and not has_table_privilege('authenticated', o.oid, 'select')
union all
select format('service_role may not %s %s', privilege, o.name), null
from ours o, pg_roles s, unnest(case o.kind when 'table' then array['select', 'insert', 'update', 'delete'] else array['select'] end) privilege
where s.rolname = 'service_role' and to_regclass('auth.users') is not null and not has_table_privilege(s.oid, o.oid, privilege)
union all
select format('service_role may not call %s', f), null
from espalier.functions() f, pg_roles s where s.rolname = 'service_role' and to_regclass('auth.users') is not null and not has_function_privilege(s.oid, f, 'execute')
order by 1
