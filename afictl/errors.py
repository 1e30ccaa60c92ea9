"""The one exception for mistakes that the user can mend."""


class UserError(ValueError):
    """Wrong input from outside: says in one line what is wrong, where, and how to mend it.

    The command line prints it without a traceback and exits with code 2.
    """
