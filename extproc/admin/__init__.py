"""The admin port: what operators and collectors see of the running service. It shows, and changes next to nothing."""
