from dynamics.sweep.commands import main

if __name__ == "__main__":
    main("experiments")
