"""A function of which two calls at once stand in each other's way."""

CROSS_OVER = """
    create table pair (id int primary key, n int not null); insert into pair values (1, 0), (2, 0);
    create function public.cross_over(p_first int, p_second int) returns jsonb language plpgsql as $$
    begin
      update pair set n = n + 1 where id = p_first;
      perform pg_sleep(0.2);
      update pair set n = n + 1 where id = p_second;
      return 'true';
    end $$
"""
