"""The order in the Durable Task SDK, the programming model of Azure's Durable Functions and of its scheduler.

https://learn.microsoft.com/azure/durable-task-scheduler/
"""
