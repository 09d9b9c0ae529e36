from misotts_gateway.command import main

main()
