from misotts.cli.main import main

main()
