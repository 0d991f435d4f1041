-- wrk's closed loop: posts the images of a directory in turn and prints one line of JSON.
--
--   wrk -c8 -d6s -s load.lua URL -- DIRECTORY NUMBER_OF_IMAGES

local requests, at = {}, 0

function init(arguments)
  local directory, suffix = arguments[1], "png"
  for number = 0, tonumber(arguments[2]) - 1 do
    local path = string.format("%s/%05d.", directory, number)
    local file = io.open(path .. suffix, "rb")
    if file == nil then
      suffix = "jpeg"
      file = assert(io.open(path .. suffix, "rb"))
    end
    local headers = { ["Content-Type"] = "image/" .. suffix }
    table.insert(requests, wrk.format("POST", nil, headers, file:read("*a")))
    file:close()
  end
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
