"""
Our own Lava processes.

Lava runs every .py file in the folder of a module that defines a Process class, in search of models.
This folder exists so that it finds these files and no others: keep them safe to import.
"""
