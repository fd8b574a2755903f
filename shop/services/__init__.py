"""The three services, what makes their calls repeatable, and the log of attempts."""
