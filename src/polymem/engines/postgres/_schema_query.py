"""Functions by which queries read documents, with exactly the meaning of `contracts.filter` and `contracts.query`.

`pm_number`: integers of 64 bits as they are; floats by their shortest decimal form below 2**53 and as the integer they
are above it; what is beyond 64 bits as the exact value of its nearest float. So all of them compare as their exact values do.
"""

from typing import Final

LONGEST: Final = 80
"""Characters of a string that an index holds: the rows of an index are small."""

# from here on the nearest float of an integer is infinite: 2**1024 - 2**970
_INFINITE: Final = 2**1024 - 2**970

QUERY: Final = """
create function pm_beyond(n numeric) returns numeric language plpgsql immutable strict parallel safe as $$
begin
    if n >= {infinite} then return 'Infinity'; end if;
    if n <= -{infinite} then return '-Infinity'; end if;
    return {schema}.pm_exact(n::float8);  -- not its shortest form, of which there may be two: 1e23
end $$;

create function pm_number(literal text) returns numeric language plpgsql immutable strict parallel safe as $$
declare n numeric := literal::numeric;
begin
    if n > -9007199254740992 and n < 9007199254740992 then return n; end if;
    if n < -9223372036854775808 or n > 9223372036854775807 then return {schema}.pm_beyond(n); end if;
    if literal ~ '[.eE]' then
        if literal::float8 >= 9223372036854775808 then return {schema}.pm_beyond(n); end if;
        return literal::float8::bigint::numeric;
    end if;
    return n;
end $$;
comment on function pm_number is 'A number of a JSON document as it compares with others';

create function pm_exact(f float8) returns numeric language plpgsql immutable strict parallel safe as $$
declare
    bits bigint := ('x' || encode(float8send(f), 'hex'))::bit(64)::bigint;
    exponent int := (bits >> 52) & 2047;
    whole numeric := bits & 4503599627370495;
begin
    if exponent > 0 then whole := whole + 4503599627370496; else exponent := 1; end if;
    exponent := exponent - 1075;
    if bits < 0 then whole := -whole; end if;
    if exponent >= 0 then return whole * power(2::numeric, exponent); end if;
    return whole * power(5::numeric, -exponent) * ('1e' || exponent)::numeric;
end $$;
comment on function pm_exact is 'The exact value of a float';

create function pm_real(n numeric) returns text language plpgsql immutable strict parallel safe
set extra_float_digits = 1 as $$
declare made text;
begin
    if n >= {infinite} then return '1e400'; end if;
    if n <= -{infinite} then return '-1e400'; end if;
    if abs(n) <= 2.4703282292062327e-324 then return '0.0'; end if; -- half of the least float
    made := n::float8::text;
    return case when made ~ '[.e]' then made else made || '.0' end;
end $$;
comment on function pm_real is 'The float nearest to a number, as JSON; 1e400 stands for infinity';

create function pm_plain(n numeric) returns text language plpgsql immutable strict parallel safe as $$
begin
    if n between -9223372036854775808 and 9223372036854775807 then
        return case when n = trunc(n) then trunc(n)::text else n::text end;
    end if;
    return {schema}.pm_real(n);
end $$;
comment on function pm_plain is 'A number as JSON, as an integer where it is one of 64 bits';

create function pm_ascii(given text) returns text language plpgsql immutable strict parallel safe as $$
declare
    made text := to_json(given)::text;
    plain text := '';
    code int;
begin
    if made !~ '[^ -~]' then return made; end if;
    for n in 1 .. length(made) loop
        code := ascii(substr(made, n, 1));
        plain := plain || case when code between 32 and 126 then chr(code)
            when code < 65536 then '\\u' || lpad(to_hex(code), 4, '0')
            else '\\u' || to_hex(55296 + ((code - 65536) >> 10)) || '\\u' || to_hex(56320 + ((code - 65536) & 1023)) end;
    end loop;
    return plain;
end $$;

create function pm_canonical(node json) returns text language plpgsql immutable strict parallel safe as $$
declare n numeric;
begin
    case json_typeof(node)
        when 'object' then return '{' || coalesce((select string_agg(
            {schema}.pm_ascii(key) || ':' || {schema}.pm_canonical(value), ',' order by key collate "C")
            from json_each(node)), '') || '}';
        when 'array' then return '[' || coalesce((select string_agg({schema}.pm_canonical(value), ',' order by place)
            from json_array_elements(node) with ordinality as items(value, place)), '') || ']';
        when 'string' then return {schema}.pm_ascii(node #>> '{}');
        when 'number' then
            n := {schema}.pm_number(node #>> '{}');
            if n in ('Infinity', '-Infinity') then return n::text; end if;
            if n <> trunc(n) then return {schema}.pm_real(n); end if;
            return trunc(n)::text;
        else return node::text;
    end case;
end $$;
comment on function pm_canonical is 'JSON text that is the same exactly where values are equal';

create function pm_value(node json, out kind int, out n numeric, out t text, out literal text)
language plpgsql immutable parallel safe as $$
begin
    case json_typeof(node)
        when 'number' then kind := 0; literal := node #>> '{}'; n := {schema}.pm_number(literal);
        when 'string' then kind := 1; t := node #>> '{}';
        when 'boolean' then kind := case when node #>> '{}' = 'false' then 2 else 3 end;
        when 'array', 'object' then kind := 4;
        when 'null' then kind := 5;
        else null;
    end case;
end $$;
comment on function pm_value is 'A value for sorting and grouping: number, string, false, true, array or object, null';

create function pm_indexed_string(body text, path text[]) returns text
language plpgsql immutable strict parallel safe as $$
declare node json := body::json #> path;
begin
    return case json_typeof(node) when 'string' then left(node #>> '{}', {longest}) end;
end $$;
create function pm_indexed_number(body text, path text[]) returns numeric
language plpgsql immutable strict parallel safe as $$
declare node json := body::json #> path;
begin
    return case json_typeof(node) when 'number' then {schema}.pm_number(node #>> '{}') end;
end $$;
""".replace("{infinite}", str(_INFINITE)).replace("{longest}", str(LONGEST))
