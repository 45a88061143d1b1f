"""The four stages of a run, in the order of the data: `urls`, `features`, `idf`, `neighbors`.

Each module has task functions (pure, but for what they read from and write to the run folder) and one
function that the workflow calls, which hands the tasks to an executor.
"""
