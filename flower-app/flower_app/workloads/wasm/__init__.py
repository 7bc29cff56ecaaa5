"""Training in a sandbox: a WebAssembly module instead of torch, under the same run, rounds and records.

workload.py is the workload; modules.py finds a module by its digest, compiler.py makes it ready, sandbox.py runs it by one of two
ABIs (fl1.py, propeller.py), receipts.py keeps what a site needs to run an update again. docs/wasm.md, wasm-task/ABI.md.
"""
