"""From a machine and a request to an environment that provably works: inspect, plan, build, prove, switch."""
