from dynamics.cli.experiments import main

if __name__ == "__main__":
    main("experiments")
