"""Every way in which a module fails its site, by name: the name is the type of the cause in the run's record.

TaskFault
  ModuleMissing ModuleChanged ModuleNotAllowed ModuleTooLarge ModuleInvalid CompileLimit    before it runs
  TaskTimeout TaskMemory TaskTable TaskStackOverflow TaskTrap HostCallAbused OutputFlood    while it runs
  TaskFailed BadUpdate                                                                      by what it gives back
"""


class TaskFault(RuntimeError):
    """A module could not be used, or what it did is refused."""


class ModuleMissing(TaskFault):
    """The module is not where the run says that it is."""


class ModuleChanged(TaskFault):
    """Its bytes have another sha256 than the one that is pinned."""


class ModuleNotAllowed(TaskFault):
    """The site has not allowed its digest."""


class ModuleTooLarge(TaskFault):
    """It has more bytes than a site takes."""


class ModuleInvalid(TaskFault):
    """It is no WebAssembly, uses a feature that is off, or does not keep to an ABI."""


class CompileLimit(TaskFault):
    """Compiling it takes more time or memory than a site gives."""


class TaskTimeout(TaskFault):
    """It has used up its wall time, what the host did for it included."""


class TaskMemory(TaskFault):
    """It does not fit the memory that a site gives."""


class TaskTable(TaskFault):
    """It has tables of more elements than a site gives."""


class TaskStackOverflow(TaskFault):
    """It recursed too deep."""


class TaskTrap(TaskFault):
    """It divided by zero, reached outside its memory, or stopped itself with `unreachable`."""


class HostCallAbused(TaskFault):
    """It called the host with pointers or counts that lead nowhere."""


class OutputFlood(TaskFault):
    """It wrote more than a site reads."""


class TaskFailed(TaskFault):
    """It says itself that it failed."""


class BadUpdate(TaskFault):
    """What it gave back is no update of the model that it was given."""
