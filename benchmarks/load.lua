-- wrk's closed loop: posts the images or texts of a directory in turn and prints one line of JSON.
--
--   wrk -c8 -d6s -s load.lua URL -- DIRECTORY NUMBER_OF_FILES

local requests, at = {}, 0
local kinds = { png = "image/png", jpeg = "image/jpeg", txt = "text/plain" }

function init(arguments)
  for number = 0, tonumber(arguments[2]) - 1 do
    for suffix, kind in pairs(kinds) do
      local file = io.open(string.format("%s/%05d.%s", arguments[1], number, suffix), "rb")
      if file ~= nil then
        local headers = { ["Content-Type"] = kind }
        table.insert(requests, wrk.format("POST", nil, headers, file:read("*a")))
        file:close()
      end
    end
  end
  assert(#requests == tonumber(arguments[2]))
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency)
  local errors = summary.errors
  local answered = summary.requests - errors.status
  local failed = errors.status + errors.connect + errors.read + errors.write + errors.timeout
  print(string.format(
    '{"rate": %.1f, "failed": %d, "p50_ms": %.3f, "p99_ms": %.3f}',
    answered / (summary.duration / 1e6), failed,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000
  ))
end
