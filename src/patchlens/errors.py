"""Every exception that patchlens raises for something a person can cause.

Each message says what was being done and to what, what was found, what was expected, and what to do
next. The command line prints the message alone and exits with status 2.

    PatchlensError
    ├── InputError             what a person gave cannot be used
    │   ├── ImageError         an image that is missing, broken, empty or too large
    │   ├── AudioError         a recording that is missing, broken, empty or too long
    │   ├── CorpusError        a corpus that is missing, empty or not text
    │   ├── PromptError        a prompt that does not fit the model
    │   └── OptionError        a value outside its range: k, a layer, a data type, a lens name
    ├── ModelError             a model that cannot be loaded or is not what it says
    │   ├── ModelNotFound      no such folder, embedded model or cached Hub id
    │   ├── ModelIncomplete    files or parts are missing, or a check while loading failed
    │   └── UnknownFamily      no adapter knows this model type
    ├── StatesError            hidden states that cannot be read
    │   └── NonFiniteStates    NaN or infinity among them
    ├── BankError              a bank that cannot be used
    │   ├── BankNotFound       no such folder or embedded bank
    │   ├── BankCorrupt        a file is missing, cut short or edited
    │   ├── BankVersionError   a format version that this release does not know
    │   ├── BankMismatch       a bank of another model or another width
    │   ├── BankBusy           another process is building it
    │   └── BuildMismatch      an unfinished build that was started with other options
    ├── JudgeError             a judge that cannot go on: wrong key, no endpoint; what it answered is kept
    │   └── BudgetSpent        the next question would cost more than what was set for all
    ├── StudyError             a study's records that cannot be used, or do not belong together
    ├── ReadingsError          saved readings that cannot be opened, or a question they cannot answer
    ├── StorageError           the disk refused: no space, no permission
    ├── OutOfMemory            the device has too little memory for the least that the work needs
    ├── HubError               the Hugging Face Hub refused, or could not be reached
    └── MissingExtra           an optional library is not installed
"""


class PatchlensError(Exception):
    """Base of all exceptions that patchlens raises on purpose."""


class InputError(PatchlensError):
    """What a person gave cannot be used."""


class ImageError(InputError):
    """An image that is missing, broken, empty or too large."""


class AudioError(InputError):
    """A recording that is missing, broken, empty or too long."""


class CorpusError(InputError):
    """A corpus that is missing, empty or not text."""


class PromptError(InputError):
    """A prompt that does not fit the model."""


class OptionError(InputError):
    """A value outside its range."""


class ModelError(PatchlensError):
    """A model that cannot be loaded or is not what it says."""


class ModelNotFound(ModelError):
    """No such folder, embedded model or cached Hub id."""


class ModelIncomplete(ModelError):
    """Files or parts are missing, or a check while loading failed."""


class UnknownFamily(ModelError):
    """No adapter knows this model type."""


class StatesError(PatchlensError):
    """Hidden states that cannot be read."""


class NonFiniteStates(StatesError):
    """NaN or infinity among the hidden states."""


class BankError(PatchlensError):
    """A bank that cannot be used."""


class BankNotFound(BankError):
    """No such folder or embedded bank."""


class BankCorrupt(BankError):
    """A file of the bank is missing, cut short or edited."""


class BankVersionError(BankError):
    """A format version that this release does not know."""


class BankMismatch(BankError):
    """A bank of another model or another width."""


class BankBusy(BankError):
    """Another process is building the bank."""


class BuildMismatch(BankError):
    """An unfinished build of another model, corpus or option is in the way."""


class JudgeError(PatchlensError):
    """A judge that cannot go on; what it has answered is kept."""


class BudgetSpent(JudgeError):
    """The next question would cost more than what was set for all."""


class StudyError(PatchlensError):
    """A study's records that cannot be used, or do not belong together."""


class ReadingsError(PatchlensError):
    """Saved readings that cannot be opened, or a question they cannot answer."""


class StorageError(PatchlensError):
    """The disk refused: no space left, or no permission."""


class OutOfMemory(PatchlensError):
    """The device has too little memory for the least that the work needs."""


class HubError(PatchlensError):
    """The Hugging Face Hub refused, or could not be reached."""


class MissingExtra(PatchlensError):
    """An optional library is not installed; the message names the install command."""
