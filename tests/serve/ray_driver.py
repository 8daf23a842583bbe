"""A program for the environment that has Ray: runs the application, again with other arguments for each line
of JSON that it reads, and says so."""

import json
import sys

import ray
from ray import serve

from aiinfra.serve.ray import RayArguments, application

if __name__ == "__main__":
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    for line in sys.stdin:
        serve.run(application(RayArguments(**json.loads(line))))
        print("runs", flush=True)
    serve.shutdown()
    ray.shutdown()
