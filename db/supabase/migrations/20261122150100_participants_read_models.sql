-- Whose data is in a model is for the coordinator and the node itself; which version is the latest is for everybody.

create policy read_own on public.model_sources for select to authenticated
  using (node_id in (select espalier.my_nodes()) or project_id in (select espalier.my_admin_projects()));
create policy read_own on public.model_promotions for select to authenticated using (project_id in (select espalier.my_projects()));

select espalier.set_rights();

alter publication supabase_realtime add table public.model_promotions;
