-- Tables that pages follow by Supabase Realtime. Not log_lines, metrics and node_updates: at their volume Supabase advises
-- against Postgres Changes; pages read them by key.

alter publication supabase_realtime add table
  public.nodes, public.node_sessions, public.federated_runs, public.run_attempts, public.rounds, public.events;
