from dynamics.cli.sweep_commands import main

if __name__ == "__main__":
    main("experiments")
